//! Owns the two ways to a device: a socket and a folder of files. A device keeps a reading until it is told that it is stored.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::{MAX_LINE, Reading};

/// The most readings that are asked for at once.
pub const MOST_READINGS: u64 = 512;
/// How long a device may wait with its answer for a first reading.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// After which silence the other side counts as gone.
pub const SILENCE: Duration = Duration::from_secs(10);
/// The file in a device's folder that has the highest number that is stored.
pub const ACKNOWLEDGED: &str = "acknowledged";

/// Where readings come from. Any error means: connect again.
pub trait Device {
    /// At most `most` readings from the number `from` on, in their order; none when there are none yet.
    ///
    /// # Errors
    /// The device is away, or says what makes no sense.
    fn read(&mut self, from: u64, most: u64) -> io::Result<Vec<Reading>>;

    /// Tells the device that everything up to `seq` is stored, and waits until it says that it heard it.
    ///
    /// # Errors
    /// The device is away, or says what makes no sense.
    fn acknowledge(&mut self, seq: u64) -> io::Result<()>;
}

fn nonsense(what: &[u8]) -> io::Error {
    let what = String::from_utf8_lossy(what);
    io::Error::new(io::ErrorKind::InvalidData, format!("it said `{}`", what.trim_end()))
}

/// Reads a line of at most [`MAX_LINE`] bytes, without its end; `None` at the end of the stream.
///
/// # Errors
/// It is longer, or breaks off; the stream's.
pub fn read_line(from: &mut BufReader<TcpStream>, line: &mut Vec<u8>) -> io::Result<Option<()>> {
    line.clear();
    from.take(MAX_LINE as u64).read_until(b'\n', line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(())),
        Some(last) => {
            line.push(last);
            Err(nonsense(line))
        }
    }
}

/// A device at the end of a socket.
#[derive(Debug)]
pub struct Socket {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl Socket {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// It can't be reached.
    pub fn connect(address: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect(address) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_write_timeout(Some(SILENCE))?;
                    stream.set_nodelay(true)?;
                    return Ok(Self { stream: BufReader::new(stream), line: Vec::new() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn say(&mut self, what: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(what.as_bytes())
    }

    /// The next line, as it is in `self.line`.
    fn hear(&mut self) -> io::Result<()> {
        use io::ErrorKind::{TimedOut, UnexpectedEof, WouldBlock};
        match read_line(&mut self.stream, &mut self.line) {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(io::Error::new(UnexpectedEof, "it has gone")),
            Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => {
                Err(io::Error::new(TimedOut, format!("it has said nothing for {} s", SILENCE.as_secs())))
            }
            Err(error) => Err(error),
        }
    }

    /// The number in a line `word NUMBER`.
    fn number(&self, word: &str) -> Option<u64> {
        std::str::from_utf8(&self.line).ok()?.strip_prefix(word)?.strip_prefix(' ')?.parse().ok()
    }
}

impl Device for Socket {
    fn read(&mut self, from: u64, most: u64) -> io::Result<Vec<Reading>> {
        let most = most.min(MOST_READINGS);
        self.say(&format!("read {from} {most}\n"))?;
        let mut readings = Vec::new();
        loop {
            self.hear()?;
            let count = readings.len() as u64;
            if let Some(end) = self.number("end") {
                return if end == count { Ok(readings) } else { Err(nonsense(&self.line)) };
            }
            let reading = Reading::parse(&self.line).filter(|found| found.seq == from + count && count < most);
            readings.push(reading.ok_or_else(|| nonsense(&self.line))?);
        }
    }

    fn acknowledge(&mut self, seq: u64) -> io::Result<()> {
        self.say(&format!("ack {seq}\n"))?;
        self.hear()?;
        if self.number("acked").is_some_and(|acked| acked >= seq) { Ok(()) } else { Err(nonsense(&self.line)) }
    }
}

/// A device that writes its readings into files of a folder: `<number of the first>.ndjson`, each from the next number on.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// The files of a device's folder with the numbers of their first readings, in their order.
///
/// # Errors
/// The folder can't be read.
pub fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let first = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ndjson")?.parse().ok());
        found.extend(first.map(|first: u64| (first, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// What a folder's device was told is stored; 0 when it was told nothing.
///
/// # Errors
/// The file can't be read, or has something else in it.
pub fn acknowledged(file: &Path) -> io::Result<u64> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        text => {
            let text = text?;
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
            number.ok_or_else(|| nonsense(&text))
        }
    }
}

/// Writes that down, so that whoever looks sees the number before or this one.
///
/// # Errors
/// The file can't be written.
pub fn write_acknowledged(file: &Path, seq: u64) -> io::Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, format!("{seq}\n"))?;
    fs::rename(&next, file)
}

impl Folder {
    /// A folder that is there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Device for Folder {
    fn read(&mut self, from: u64, most: u64) -> io::Result<Vec<Reading>> {
        let most = usize::try_from(most.min(MOST_READINGS)).unwrap_or(usize::MAX);
        let files = files(&self.path)?;
        let mut readings: Vec<Reading> = Vec::new();
        // From the last file that begins at `from` or before.
        let begin = files.iter().rposition(|(first, _)| *first <= from).unwrap_or(0);
        for (_, path) in files.get(begin..).unwrap_or_default() {
            let mut lines = BufReader::new(fs::File::open(path)?);
            let mut line = Vec::new();
            // A line without its end is being written.
            while readings.len() < most && lines.read_until(b'\n', &mut line)? > 0 && line.pop() == Some(b'\n') {
                let reading = Reading::parse(&line).ok_or_else(|| nonsense(&line))?;
                line.clear();
                let expected = from + readings.len() as u64;
                if reading.seq > expected {
                    let why = format!("the device goes on with reading {}, and {expected} was to come", reading.seq);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                if reading.seq == expected {
                    readings.push(reading);
                }
            }
        }
        Ok(readings)
    }

    fn acknowledge(&mut self, seq: u64) -> io::Result<()> {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match write_acknowledged(&self.path.join(ACKNOWLEDGED), seq) {
            // A folder that may only be read belongs to a device that wants to hear nothing.
            Err(error) if matches!(error.kind(), ReadOnlyFilesystem | PermissionDenied) => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_from_any_number_across_files_and_never_a_torn_line() {
        let path = std::env::temp_dir().join(format!("device-folder-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let lines = |from: u64, to: u64| {
            let mut bytes = Vec::new();
            (from..=to).for_each(|seq| Reading::simulated(1, seq).write(&mut bytes));
            bytes
        };
        fs::write(path.join("000000000001.ndjson"), lines(1, 10)).unwrap();
        fs::write(path.join("000000000011.ndjson"), &lines(11, 15)[..lines(11, 15).len() - 3]).unwrap();
        let mut folder = Folder::new(&path);
        let mut numbers = |from, most| folder.read(from, most).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>();
        assert_eq!(numbers(1, 3), [1, 2, 3]);
        assert_eq!(numbers(9, 100), [9, 10, 11, 12, 13, 14]);
        assert_eq!(numbers(12, 1), [12]);
        assert_eq!(numbers(15, 100), [0; 0]);
        folder.acknowledge(10).unwrap();
        assert_eq!(acknowledged(&path.join(ACKNOWLEDGED)).unwrap(), 10);
        fs::remove_file(path.join("000000000001.ndjson")).unwrap();
        assert!(folder.read(5, 10).is_err(), "what the device no longer has is missed, not passed over");
        assert_eq!(folder.read(11, 10).unwrap().len(), 4);
        fs::remove_dir_all(&path).unwrap();
    }
}
