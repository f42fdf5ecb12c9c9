//! Owns the collector's files: which readings are stored for good, and how they leave.
//!
//! ```text
//! STATE/outbox/.open/000000000101.ndjson                       the open file: its name is the number of its first reading
//! STATE/outbox/readings-000000000001-000000000100.ndjson       a closed one on its way; gone as soon as the node took it
//! ```
//!
//! Readings are appended to the open file and forced to disk; only then are they stored. A file that is large enough is
//! *shipped*: the next open file is made first, under the number that comes next, and then this one is moved to the outbox,
//! from where the node takes it. So at every moment there is an open file that says which reading comes next, although
//! what was shipped can't be seen any more; and a move is there or not there, so no reading is in two files.
//!
//! The open file is in a folder of the outbox since nothing else is both: kept by the node as it is, and neither a record
//! nor a part of what the node seals as changed files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::record::{MAX_LINE, Reading};

/// What the names of shipped files begin with.
const SHIPPED: &str = "readings-";
const END: &str = ".ndjson";

/// The numbers of the first and the last reading of a shipped file, by its name; before it a pull puts the file's place in
/// the chain.
#[must_use]
pub fn shipped_range(name: &str) -> Option<(Option<u64>, u64, u64)> {
    let (place, name) = match name.find(SHIPPED)? {
        0 => (None, name),
        at => (Some(digits(name[..at].strip_suffix('-')?)?), &name[at..]),
    };
    let (first, last) = name.strip_prefix(SHIPPED)?.strip_suffix(END)?.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    (0 < first && first <= last).then_some((place, first, last))
}

/// A number of at least twelve digits.
fn digits(text: &str) -> Option<u64> {
    let right = text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| text.parse().ok()).flatten()
}

/// Whether an error means that there is no room.
#[must_use]
pub fn means_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    // ENOSPC and EDQUOT of WASI; and EIO, which a component's C library makes of the failure of a stream.
    const OF_WASI: [i32; 3] = [51, 19, 29];
    matches!(error.kind(), StorageFull | QuotaExceeded)
        || (cfg!(target_family = "wasm") && error.raw_os_error().is_some_and(|number| OF_WASI.contains(&number)))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Forces a folder's names to disk. A component can't always: there the node does it when it takes a file.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(_) if cfg!(target_family = "wasm") => Ok(()),
        done => done.map_err(at(folder)),
    }
}

/// What [`Journal::append`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// So many of them, from the first on, are stored for good.
    pub stored: usize,
    /// There was no room for the next one.
    pub full: bool,
}

/// The open file.
#[derive(Debug)]
struct Open {
    first: u64,
    path: PathBuf,
    /// Of what is stored.
    length: u64,
    file: File,
}

/// The readings in one state's folder. One process at a time.
#[derive(Debug)]
pub struct Journal {
    outbox: PathBuf,
    open: Open,
    next: u64,
    roll_bytes: u64,
    /// In files of the outbox that nobody has taken yet.
    waiting: u64,
    shipped: u64,
    cut: u64,
}

/// How far a file's lines are the ones from `first` on: how many, and how many bytes they have.
fn whole(bytes: &[u8], first: u64) -> (u64, u64) {
    let (mut count, mut length) = (0, 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let reading = line.strip_suffix(b"\n").and_then(Reading::parse);
        if reading.is_none_or(|reading| reading.seq != first + count) {
            break;
        }
        count += 1;
        length += line.len() as u64;
    }
    (count, length)
}

impl Open {
    fn path(folder: &Path, first: u64) -> PathBuf {
        folder.join(format!("{first:012}{END}"))
    }

    /// Makes it, or takes the empty one that a crash left.
    fn make(folder: &Path, first: u64) -> io::Result<Self> {
        let path = Self::path(folder, first);
        let file = File::options().create(true).append(true).open(&path)?;
        file.sync_all()?;
        sync_folder(folder)?;
        Ok(Self { first, path, length: 0, file })
    }

    /// Opens it and cuts off what isn't a whole line, or not the right one: that was never stored, since storing ends with
    /// the force to disk of whole lines. Says how many readings it has and how many bytes were cut.
    fn recover(folder: &Path, first: u64) -> io::Result<(Self, u64, u64)> {
        let path = Self::path(folder, first);
        let bytes = fs::read(&path).map_err(at(&path))?;
        let (count, length) = whole(&bytes, first);
        let cut = bytes.len() as u64 - length;
        let file = File::options().append(true).open(&path).map_err(at(&path))?;
        if cut > 0 {
            file.set_len(length).map_err(at(&path))?;
        }
        // The lines may have been written and not forced to disk when it was killed.
        file.sync_all().map_err(at(&path))?;
        Ok((Self { first, path, length, file }, count, cut))
    }
}

impl Journal {
    /// Opens the journal in a state's folder, whatever a kill or a power cut left there. `first` is the number of the first
    /// reading to be stored where there is nothing yet.
    ///
    /// # Errors
    /// The file system's; readings that were stored are missing between two files, or are in two of them.
    pub fn open(state: &Path, first: u64, roll_bytes: u64) -> io::Result<Self> {
        let outbox = state.join("outbox");
        let folder = outbox.join(".open");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        sync_folder(state)?;
        sync_folder(&outbox)?;
        let (mut ranges, mut waiting) = (Vec::new(), 0);
        for entry in fs::read_dir(&outbox).map_err(at(&outbox))? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some((None, first, last)) = name.to_str().and_then(shipped_range) {
                ranges.push((first, last, entry.path()));
                waiting += entry.metadata()?.len();
            }
        }
        ranges.sort_unstable();
        // One that a killed container left, or a disk that failed: to close it is to hand it to the node, which takes it.
        // Without such a node it stays where it is, and is shipped all the same.
        for (_, _, path) in &ranges {
            let length = fs::metadata(path).map_err(at(path))?.len();
            drop(File::options().append(true).open(path).map_err(at(path))?);
            if !path.exists() {
                waiting -= length;
            }
        }
        let mut next = ranges.last().map(|(_, last, _)| last + 1);
        let mut open: Vec<u64> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            open.extend(entry?.file_name().to_str().and_then(|name| digits(name.strip_suffix(END)?)));
        }
        open.sort_unstable();
        let (mut found, mut cut) = (Vec::new(), 0);
        for number in open {
            let (file, count, torn) = Open::recover(&folder, number)?;
            cut += torn;
            if next.is_some_and(|next| number != next) {
                let (next, path) = (next.unwrap_or(0), file.path.display());
                return Err(invalid(format!("{path} goes on with reading {number}, and {next} was to come")));
            }
            next = Some(number + count);
            found.push(file);
        }
        let next = next.unwrap_or(first.max(1));
        let newest = match found.pop() {
            Some(newest) => newest,
            None => Open::make(&folder, next).map_err(at(&folder))?,
        };
        let mut journal = Self { outbox, open: newest, next, roll_bytes, waiting, shipped: 0, cut };
        // The next one was made and this one not shipped yet.
        for older in found {
            journal.move_out(older, journal.open.first)?;
        }
        Ok(journal)
    }

    /// The number of the reading that is stored next: all before it are stored.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many files this journal has shipped.
    #[must_use]
    pub fn shipped(&self) -> u64 {
        self.shipped
    }

    /// How many bytes of torn lines were cut off.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// What is in the folder and can be seen there, in bytes: the open file, and what nobody has taken.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.open.length + self.waiting
    }

    /// Whether nothing waits for being shipped.
    #[must_use]
    pub fn is_shipped(&self) -> bool {
        self.open.length == 0
    }

    /// Stores readings, the first of which is [`Journal::next`], and ships what is large enough. What it says is stored is on
    /// disk.
    ///
    /// # Errors
    /// The file system's. Then the journal is to be opened anew.
    ///
    /// # Panics
    /// When the numbers aren't those that come next.
    pub fn append(&mut self, readings: &[Reading]) -> io::Result<Appended> {
        let mut stored = 0;
        while let Some(reading) = readings.get(stored) {
            assert_eq!(reading.seq, self.next, "readings are stored in their order");
            let room = self.roll_bytes.saturating_sub(self.open.length);
            let mut bytes = Vec::new();
            let mut count = 0;
            for reading in &readings[stored..] {
                assert_eq!(reading.seq, self.next + count, "readings are stored in their order");
                let before = bytes.len();
                reading.write(&mut bytes);
                debug_assert!(bytes.len() - before <= MAX_LINE);
                // One is stored in an empty file whatever its size.
                if bytes.len() as u64 > room && (count > 0 || self.open.length > 0) {
                    bytes.truncate(before);
                    break;
                }
                count += 1;
            }
            if count == 0 {
                match self.ship() {
                    Err(error) if means_full(&error) => return Ok(Appended { stored, full: true }),
                    done => done?,
                }
                continue;
            }
            let went = self.write(&bytes)?;
            stored += usize::try_from(went).unwrap_or(0);
            if went < count {
                return Ok(Appended { stored, full: true });
            }
        }
        Ok(Appended { stored, full: false })
    }

    /// Appends lines, as far as there is room, and forces them to disk. Says how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let open = &mut self.open;
        let done = open.file.write_all(bytes).and_then(|()| open.file.sync_data());
        let went = match done {
            Ok(()) => {
                let (count, length) = whole(bytes, self.next);
                open.length += length;
                count
            }
            Err(error) if means_full(&error) => {
                let folder = open.path.parent().unwrap_or(Path::new(".")).to_owned();
                let before = self.next - open.first;
                let (again, count, _) = Open::recover(&folder, open.first)?;
                *open = again;
                count.checked_sub(before).ok_or_else(|| invalid("what was stored is not there".into()))?
            }
            Err(error) => return Err(at(&open.path)(error)),
        };
        self.next += went;
        Ok(went)
    }

    /// Closes the open file and hands it to the node; nothing, when it is empty.
    ///
    /// # Errors
    /// The file system's; there may be no room for one file more. Nothing is lost: the journal can be opened anew.
    pub fn ship(&mut self) -> io::Result<()> {
        if self.is_shipped() {
            return Ok(());
        }
        let folder = self.open.path.parent().unwrap_or(Path::new(".")).to_owned();
        let next = Open::make(&folder, self.next)?;
        let full = std::mem::replace(&mut self.open, next);
        self.move_out(full, self.next)
    }

    /// Moves a file, whose last reading is the one before `next`, into the outbox.
    fn move_out(&mut self, full: Open, next: u64) -> io::Result<()> {
        let Open { first, path, length, file } = full;
        // Closed first: the node takes what is closed.
        drop(file);
        let to = self.outbox.join(format!("{SHIPPED}{first:012}-{:012}{END}", next - 1));
        fs::rename(&path, &to).map_err(at(&to))?;
        sync_folder(&self.outbox)?;
        self.shipped += 1;
        if to.exists() {
            self.waiting += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with the test.
    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("journal-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> io::Result<Journal> {
            Journal::open(&self.0, 1, 500)
        }

        fn open_file(&self, first: u64) -> PathBuf {
            Open::path(&self.0.join("outbox/.open"), first)
        }

        /// The numbers in all files, in the order of their names.
        fn numbers(&self) -> Vec<u64> {
            let mut files: Vec<_> = fs::read_dir(self.0.join("outbox")).unwrap().map(|e| e.unwrap().path()).collect();
            files.retain(|path| path.is_file());
            files.sort();
            let mut open: Vec<_> =
                fs::read_dir(self.0.join("outbox/.open")).unwrap().map(|e| e.unwrap().path()).collect();
            open.sort();
            files.extend(open);
            let lines = files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>().concat();
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(|line| Reading::parse(line).unwrap().seq).collect()
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn readings(from: u64, count: u64) -> Vec<Reading> {
        (from..from + count).map(|seq| Reading::simulated(1, seq)).collect()
    }

    fn store(journal: &mut Journal, count: u64) {
        let stored = journal.append(&readings(journal.next(), count)).unwrap();
        assert_eq!(stored, Appended { stored: usize::try_from(count).unwrap(), full: false });
    }

    #[test]
    fn files_roll_at_their_size_and_hold_every_reading_once() {
        let temp = Temp::new("roll");
        let mut journal = temp.open().unwrap();
        store(&mut journal, 3);
        store(&mut journal, 40);
        assert!(journal.shipped() >= 5, "{journal:?}");
        for entry in fs::read_dir(temp.0.join("outbox")).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= 4096);
        }
        assert_eq!(temp.numbers(), (1..=43).collect::<Vec<_>>());
        for path in fs::read_dir(temp.0.join("outbox")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
            let (place, first, last) = shipped_range(path.file_name().unwrap().to_str().unwrap()).unwrap();
            let lines = fs::read(&path).unwrap();
            assert!(lines.len() <= 500 && place.is_none());
            assert_eq!(whole(&lines, first), (last - first + 1, lines.len() as u64));
        }
        journal.ship().unwrap();
        assert!(journal.is_shipped());
        assert!(temp.open_file(44).is_file(), "the open file says what comes next, also when it is empty");
    }

    #[test]
    fn it_goes_on_where_it_was_and_knows_that_although_what_was_shipped_is_gone() {
        let temp = Temp::new("gone");
        for round in 0..5 {
            let mut journal = temp.open().unwrap();
            assert_eq!(journal.next(), 1 + round * 17);
            store(&mut journal, 17);
            if round % 2 == 0 {
                journal.ship().unwrap();
            }
            drop(journal);
            for path in fs::read_dir(temp.0.join("outbox")).unwrap().map(|e| e.unwrap().path()) {
                if path.is_file() {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        assert_eq!(temp.open().unwrap().next(), 86);
    }

    #[test]
    fn a_last_line_torn_at_any_byte_is_cut_off_and_no_other() {
        let temp = Temp::new("torn");
        store(&mut temp.open().unwrap(), 4);
        let file = temp.open_file(1);
        let bytes = fs::read(&file).unwrap();
        let three = bytes.len() - (Reading::simulated(1, 4).line().len() + 1);
        for length in three..bytes.len() {
            fs::write(&file, &bytes[..length]).unwrap();
            let mut journal = temp.open().unwrap();
            assert_eq!((journal.next(), journal.cut()), (4, (length - three) as u64));
            assert_eq!(fs::metadata(&file).unwrap().len(), three as u64);
            store(&mut journal, 1);
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
        // What a power cut makes of blocks that were not written.
        fs::write(&file, [&bytes[..three], &[0; 300][..]].concat()).unwrap();
        assert_eq!(temp.open().unwrap().next(), 4);
    }

    #[test]
    fn killed_between_the_steps_of_shipping_it_ends_them() {
        let temp = Temp::new("steps");
        store(&mut temp.open().unwrap(), 4);
        // The next one was made.
        fs::write(temp.open_file(5), b"").unwrap();
        let mut journal = temp.open().unwrap();
        assert_eq!((journal.next(), journal.shipped()), (5, 1));
        assert!(temp.0.join("outbox/readings-000000000001-000000000004.ndjson").is_file());
        store(&mut journal, 2);
        drop(journal);
        assert_eq!(temp.numbers(), (1..=6).collect::<Vec<_>>());
        assert_eq!(temp.open().unwrap().next(), 7);
    }

    #[test]
    fn readings_that_are_missing_between_files_or_there_twice_are_an_error() {
        let temp = Temp::new("missing");
        store(&mut temp.open().unwrap(), 4);
        fs::write(temp.open_file(6), b"").unwrap();
        assert!(temp.open().unwrap_err().to_string().contains("reading 6, and 5 was to come"));
        fs::remove_file(temp.open_file(6)).unwrap();
        fs::write(temp.0.join("outbox/readings-000000000001-000000000002.ndjson"), b"").unwrap();
        assert!(temp.open().unwrap_err().to_string().contains("reading 1, and 3 was to come"));
    }

    #[test]
    fn a_first_number_counts_where_there_is_nothing_yet() {
        let temp = Temp::new("first");
        let mut journal = Journal::open(&temp.0, 90, 500).unwrap();
        assert_eq!(journal.next(), 90);
        store(&mut journal, 3);
        drop(journal);
        assert_eq!(temp.open().unwrap().next(), 93);
    }

    #[test]
    fn names_of_shipped_files_are_read_with_and_without_a_place() {
        let name = "readings-000000000011-000000000020.ndjson";
        assert_eq!(shipped_range(name), Some((None, 11, 20)));
        assert_eq!(shipped_range(&format!("000000000003-{name}")), Some((Some(3), 11, 20)));
        for other in [
            "readings-11-20.ndjson",
            "readings-000000000021-000000000020.ndjson",
            "3-readings-000000000011-000000000020.ndjson",
            "000000000003readings-000000000011-000000000020.ndjson",
            "readings-000000000011-000000000020",
            "other",
        ] {
            assert_eq!(shipped_range(other), None, "{other}");
        }
    }
}
