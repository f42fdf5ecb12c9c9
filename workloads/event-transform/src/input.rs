//! Lines of any length out of a stream, in bounded memory.

use std::io::{ErrorKind, Read, Result};

const BUFFER: usize = 256 * 1024;

/// A line without its newline, or a part of a line that is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) bytes: &'a [u8],
    /// It begins with this part.
    pub(crate) begins: bool,
    /// It ends with this part.
    pub(crate) ends: bool,
}

/// A stream, line by line. One up to the limit comes as one part; a longer one may come as several.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    stream: R,
    limit: usize,
    buffer: Vec<u8>,
    /// What is read and not yet given out.
    from: usize,
    to: usize,
    within: bool,
    ended: bool,
    /// All that was read.
    pub(crate) bytes: u64,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(stream: R, limit: usize) -> Self {
        let buffer = vec![0; BUFFER.max(limit * 2)];
        Self { stream, limit, buffer, from: 0, to: 0, within: false, ended: false, bytes: 0 }
    }

    /// The next part; `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Part<'_>>> {
        let mut seen = self.from;
        loop {
            let begins = !self.within;
            if let Some(length) = self.buffer.get(seen..self.to).and_then(|rest| memchr::memchr(b'\n', rest)) {
                let start = self.from;
                self.from = seen + length + 1;
                self.within = false;
                return Ok(self.buffer.get(start..seen + length).map(|bytes| Part { bytes, begins, ends: true }));
            }
            let (start, length) = (self.from, self.to - self.from);
            if length > self.limit {
                self.from = self.to;
                self.within = true;
                return Ok(self.buffer.get(start..self.to).map(|bytes| Part { bytes, begins, ends: false }));
            }
            if self.ended {
                // The last line has no newline, or there is none.
                let there_is_one = length > 0 || self.within;
                self.from = self.to;
                self.within = false;
                let bytes = self.buffer.get(start..self.to).filter(|_| there_is_one);
                return Ok(bytes.map(|bytes| Part { bytes, begins, ends: true }));
            }
            self.fill()?;
            seen = self.from + length;
        }
    }

    #[cold]
    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        let free = self.buffer.get_mut(self.to..).unwrap_or_default();
        let read = loop {
            match self.stream.read(free) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.to += read;
        self.bytes += read as u64;
        self.ended = read == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out a few bytes at a time.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, to: &mut [u8]) -> Result<usize> {
            let length = self.0.len().min(self.1).min(to.len());
            to[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn lines(bytes: &[u8], at_once: usize, limit: usize) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::new(Dripping(bytes, at_once), limit);
        let mut found: Vec<(Vec<u8>, bool)> = Vec::new();
        while let Some(Part { bytes, begins, ends }) = lines.next().unwrap() {
            if begins {
                found.push((bytes.to_vec(), begins && ends));
            } else {
                found.last_mut().unwrap().0.extend(bytes);
            }
        }
        assert_eq!(lines.bytes, bytes.len() as u64);
        found
    }

    #[test]
    fn lines_are_what_is_between_newlines_however_they_come() {
        for (text, expected) in [
            ("", &[][..]),
            ("\n", &[""]),
            ("a", &["a"]),
            ("a\n", &["a"]),
            ("a\n\nb\r\n c", &["a", "", "b\r", " c"]),
            ("0123456789\n01234567890\n0123", &["0123456789", "01234567890", "0123"]),
        ] {
            for at_once in [1, 2, 3, 7, 1000] {
                let found = lines(text.as_bytes(), at_once, 10);
                assert!(found.iter().all(|(line, whole)| *whole || line.len() > 10), "{found:?}");
                let found: Vec<_> = found.into_iter().map(|(line, _)| String::from_utf8(line).unwrap()).collect();
                assert_eq!(found, expected, "{text:?} {at_once}");
            }
        }
    }

    #[test]
    fn a_line_far_longer_than_the_buffer_is_one_line() {
        let long = vec![b'x'; 3 * BUFFER + 5];
        for end in ["", "\n", "\nlast"] {
            let text = [b"first\n", long.as_slice(), end.as_bytes()].concat();
            for at_once in [1000, BUFFER, usize::MAX] {
                let found = lines(&text, at_once, 10);
                assert_eq!(found[0], (b"first".to_vec(), true));
                assert_eq!(found[1], (long.clone(), false), "{at_once}");
                assert_eq!(found.len(), if end.len() > 1 { 3 } else { 2 });
            }
        }
    }
}
