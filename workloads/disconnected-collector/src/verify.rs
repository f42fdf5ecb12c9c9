//! Owns the proof at the far side: a folder of shipped files against the readings of a seed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write};
use std::path::Path;

use crate::journal::shipped_range;
use crate::record::Reading;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many readings there have to be: the numbers from 1 to this one.
    pub count: u64,
    /// What the device was told is stored, where that is known.
    pub acknowledged: Option<u64>,
    /// Files that were read.
    pub files: u64,
    /// Numbers that are there, at least once, with the reading that the seed says.
    pub verified: u64,
    /// Runs of numbers of which none is there.
    pub gaps: u64,
    /// Numbers that are not there.
    pub missing: u64,
    /// Readings that were there before.
    pub duplicates: u64,
    /// Readings that stand after a higher number.
    pub out_of_order: u64,
    /// Lines that are no reading of the seed, files that don't hold what their name says, and files of no collector.
    pub wrong: u64,
    /// Readings beyond `count`.
    pub beyond: u64,
    /// What is wrong, in words: the first few.
    pub remarks: Vec<String>,
}

impl Found {
    /// Whether everything is there, once, in order and right, and the device was told of nothing else.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let bad = self.gaps + self.missing + self.duplicates + self.out_of_order + self.wrong + self.beyond;
        bad == 0 && self.verified == self.count && self.acknowledged.is_none_or(|told| told == self.verified)
    }

    fn remark(&mut self, what: impl FnOnce() -> String) {
        if self.remarks.len() < 10 {
            self.remarks.push(what());
        }
    }
}

/// One line of JSON, without the remarks.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.acknowledged.map_or("null".to_owned(), |told| told.to_string());
        write!(f, "{{\"ok\":{},\"count\":{},\"acknowledged\":{told}", self.is_right(), self.count)?;
        write!(f, ",\"verified\":{},\"files\":{}", self.verified, self.files)?;
        write!(f, ",\"gaps\":{},\"missing\":{},\"duplicates\":{}", self.gaps, self.missing, self.duplicates)?;
        write!(f, ",\"out_of_order\":{},\"wrong\":{},\"beyond\":{}}}", self.out_of_order, self.wrong, self.beyond)
    }
}

/// Reads what `vyr state pull REPO --to FOLDER` wrote and holds every line against the reading that `seed` has there. What
/// it reads is copied to `copy`, in the order of the chain. Takes a bit of memory for each reading.
///
/// # Errors
/// The folder can't be read, or `copy` not be written.
pub fn verify(folder: &Path, seed: u64, count: u64, copy: &mut dyn Write) -> io::Result<Found> {
    let outbox = folder.join("outbox");
    let at = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut found = Found { count, ..Found::default() };
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(&outbox).map_err(|e| at(&outbox, e))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match shipped_range(&name) {
            Some((place, first, last)) => drop(files.insert((place, first, last, entry.path()))),
            // The open file of a collector's own folder: not shipped yet.
            None if name == ".open" => {}
            None => {
                found.wrong += 1;
                found.remark(|| format!("{name}: no file of a collector"));
            }
        }
    }
    let size = usize::try_from(count / 64 + 1).map_err(io::Error::other)?;
    let mut seen = vec![0_u64; size];
    let mut highest = 0;
    for (_, first, last, path) in files {
        found.files += 1;
        let mut lines = BufReader::new(fs::File::open(&path).map_err(|e| at(&path, e))?);
        let (mut line, mut expected) = (Vec::new(), first);
        while lines.read_until(b'\n', &mut line).map_err(|e| at(&path, e))? > 0 {
            copy.write_all(&line)?;
            let whole = line.strip_suffix(b"\n");
            let reading = whole.and_then(Reading::parse).filter(|found| *found == Reading::simulated(seed, found.seq));
            let Some(Reading { seq, .. }) = reading.filter(|found| found.seq > 0) else {
                found.wrong += 1;
                let text = String::from_utf8_lossy(&line);
                found.remark(|| format!("{}: `{}` is no reading of this seed", path.display(), text.trim_end()));
                line.clear();
                continue;
            };
            line.clear();
            if seq != expected {
                found.remark(|| format!("{}: reading {seq}, and {expected} was to come", path.display()));
            }
            expected = seq + 1;
            if seq > count {
                found.beyond += 1;
                continue;
            }
            let Some(word) = usize::try_from(seq / 64).ok().and_then(|at| seen.get_mut(at)) else { continue };
            let bit = 1 << (seq % 64);
            if *word & bit != 0 {
                found.duplicates += 1;
                found.remark(|| format!("{}: reading {seq} is there twice", path.display()));
            } else {
                found.verified += 1;
                if seq < highest {
                    found.out_of_order += 1;
                }
            }
            *word |= bit;
            highest = highest.max(seq);
        }
        if expected != last + 1 {
            found.wrong += 1;
            found.remark(|| format!("{}: ends before reading {expected}", path.display()));
        }
    }
    let mut before = true;
    for seq in 1..=count {
        let word = usize::try_from(seq / 64).ok().and_then(|at| seen.get(at)).copied().unwrap_or(0);
        let there = word & (1 << (seq % 64)) != 0;
        if !there {
            found.missing += 1;
            found.gaps += u64::from(before);
            if before {
                found.remark(|| format!("reading {seq} is missing"));
            }
        }
        before = there;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("verify-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("outbox")).unwrap();
            Self(path)
        }

        fn file(&self, place: u64, numbers: &[u64]) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|seq| Reading::simulated(9, *seq).write(&mut bytes));
            let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
            let name = format!("{place:012}-readings-{first:012}-{last:012}.ndjson");
            fs::write(self.0.join("outbox").join(name), bytes).unwrap();
        }

        fn found(&self, count: u64) -> Found {
            verify(&self.0, 9, count, &mut io::sink()).unwrap()
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_all_there_is_right_and_says_so_in_one_line() {
        let temp = Temp::new("right");
        temp.file(1, &[1, 2, 3]);
        temp.file(3, &[4, 5]);
        let found = temp.found(5);
        assert!(found.is_right(), "{found:?}");
        assert_eq!(
            found.to_string(),
            r#"{"ok":true,"count":5,"acknowledged":null,"verified":5,"files":2,"gaps":0,"missing":0,"duplicates":0,"out_of_order":0,"wrong":0,"beyond":0}"#
        );
        assert!(Found { acknowledged: Some(5), ..found.clone() }.is_right());
        assert!(!Found { acknowledged: Some(6), ..found.clone() }.is_right(), "it isn't there");
        assert!(!verify(&temp.0, 8, 5, &mut io::sink()).unwrap().is_right(), "another seed");
    }

    #[test]
    fn loss_is_found() {
        let temp = Temp::new("loss");
        temp.file(1, &[1, 2]);
        temp.file(2, &[5, 6]);
        let found = temp.found(8);
        assert_eq!((found.gaps, found.missing, found.verified), (2, 4, 4));
        assert!(!found.is_right());
    }

    #[test]
    fn what_is_there_twice_is_found() {
        let temp = Temp::new("twice");
        temp.file(1, &[1, 2, 3]);
        temp.file(2, &[3, 4]);
        let found = temp.found(4);
        assert_eq!((found.duplicates, found.verified, found.missing), (1, 4, 0));
        assert!(!found.is_right());
    }

    #[test]
    fn another_order_is_found() {
        let temp = Temp::new("order");
        temp.file(1, &[3, 4]);
        temp.file(2, &[1, 2]);
        let found = temp.found(4);
        assert_eq!((found.out_of_order, found.verified), (2, 4));
        assert!(!found.is_right());
    }

    #[test]
    fn what_was_altered_is_found_and_so_is_a_stranger() {
        let temp = Temp::new("altered");
        temp.file(1, &[1, 2, 3]);
        let path = temp.0.join("outbox/000000000001-readings-000000000001-000000000003.ndjson");
        let mut bytes = fs::read(&path).unwrap();
        // A value that is well-formed, with its check, and of another device.
        let other = Reading::simulated(10, 2).line();
        let one = Reading::simulated(9, 1).line().len() + 1;
        let two = Reading::simulated(9, 2).line().len();
        bytes.splice(one..one + two, other.bytes());
        fs::write(&path, bytes).unwrap();
        let found = temp.found(3);
        assert_eq!((found.wrong, found.missing, found.verified), (1, 1, 2));
        fs::write(temp.0.join("outbox/000000000002-other"), b"").unwrap();
        assert_eq!(temp.found(3).wrong, 2);
    }
}
