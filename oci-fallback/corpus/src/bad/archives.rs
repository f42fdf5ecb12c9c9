//! Owns tar archives as no honest tool writes them, byte by byte.

use std::io::{self, Write};

use anyhow::Result;

const BLOCK: usize = 512;

/// A header's block, with whatever name and target: the `tar` crate refuses to write some of these.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    block: [u8; BLOCK],
}

impl Raw {
    pub(super) fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut raw = Self { block: [0; BLOCK] };
        raw.put(0, name);
        raw.put(100, b"0000755\0");
        raw.put(108, b"0000000\0");
        raw.put(116, b"0000000\0");
        if size < 1 << 33 {
            raw.put(124, format!("{size:011o}\0").as_bytes());
        } else {
            // GNU's base 256, for what eleven octal digits don't hold.
            raw.put(124, &[0x80, 0, 0, 0]);
            raw.put(128, &size.to_be_bytes());
        }
        raw.put(136, b"00000000000\0");
        raw.block[156] = kind;
        raw.put(257, b"ustar  \0");
        raw
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn target(mut self, target: &[u8]) -> Self {
        self.put(157, target);
        self
    }

    pub(super) fn device(mut self, major: u32, minor: u32) -> Self {
        self.put(329, format!("{major:07o}\0").as_bytes());
        self.put(337, format!("{minor:07o}\0").as_bytes());
        self
    }

    /// As GNU tar writes a file that is one hole of that size.
    pub(super) fn hole(mut self, size: u64) -> Self {
        self.block[156] = b'S';
        // One piece of nothing at the end.
        self.put(386, &[0x80, 0, 0, 0]);
        self.put(390, &size.to_be_bytes());
        self.put(398, b"00000000000\0");
        self.put(483, &[0x80, 0, 0, 0]);
        self.put(487, &size.to_be_bytes());
        self
    }

    /// The block with its checksum.
    pub(super) fn done(mut self) -> [u8; BLOCK] {
        self.put(148, b"        ");
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.block
    }
}

/// The end of an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// A file with its content.
pub(super) fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = Raw::new(b'0', name, content.len() as u64).done().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// So many empty files, streamed.
pub(super) fn many(out: &mut impl Write, count: u32) -> Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    let mut block = Raw::new(b'0', b"many/00000000", 0).done();
    // The checksum is a sum: what the digits add to that of zeros is enough.
    let zeros = u32::from_str_radix(std::str::from_utf8(&block[148..154])?, 8)?;
    for number in 0..count {
        let digits = format!("{number:08}");
        let more: u32 = digits.bytes().map(|digit| u32::from(digit - b'0')).sum();
        block[5..13].copy_from_slice(digits.as_bytes());
        block[148..154].copy_from_slice(format!("{:06o}", zeros + more).as_bytes());
        out.write_all(&block)?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_read_as_such() {
        let mut bytes = Vec::new();
        many(&mut bytes, 1234).unwrap();
        bytes.extend(END);
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!((names.len(), names[1233].to_str()), (1234, Some("many/00001233")));
    }
}
