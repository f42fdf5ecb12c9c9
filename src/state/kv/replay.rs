//! Owns the journal as it is read: by who takes a state up after a crash, and by readers beside its writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::super::folder::boot_id;
use super::files::Changes;
use super::journal::{CURRENT, OLD};
use super::record::{self, HEADER_LEN, Header, Record};

/// Which file it is, whatever its name is by now.
type Identity = (u64, u64);

/// One journal, as far as it was read.
#[derive(Debug)]
struct Part {
    file: File,
    identity: Identity,
    /// `None` until there is a whole one.
    header: Option<Header>,
    parsed: u64,
    /// What isn't said to be in the files, with the offset of the record that says so.
    changes: BTreeMap<String, (u64, Option<Bytes>)>,
}

impl Part {
    fn open(root: &OwnedFd, name: &str) -> io::Result<Option<Self>> {
        let file = match openat(root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = file.metadata()?;
        let identity = (found.dev(), found.ino());
        Ok(Some(Self { file, identity, header: None, parsed: 0, changes: BTreeMap::new() }))
    }

    /// Reads what has come, up to the first record that isn't whole.
    fn read_on(&mut self, boot: Option<&str>) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let Some(more) = length.checked_sub(self.parsed).filter(|more| *more > 0) else { return Ok(()) };
        let mut bytes = vec![0; usize::try_from(more).map_err(io::Error::other)?];
        let read = read_at_most(&self.file, &mut bytes, self.parsed)?;
        let mut rest = &bytes[..read];
        if self.header.is_none() {
            let Some(header) = Header::parse(rest) else { return Ok(()) };
            self.header = Some(header);
            rest = &rest[HEADER_LEN..];
            self.parsed += HEADER_LEN as u64;
        }
        let Some(Header { generation, boot: written }) = &self.header else { return Ok(()) };
        // The files are as the mark says only until the machine starts again: nothing had forced them to disk.
        let marks_hold = boot.is_some() && boot == written.as_deref();
        while let Some((record, size)) = record::parse(*generation, rest) {
            match record {
                Record::Change(key, value) => drop(self.changes.insert(key, (self.parsed, value))),
                Record::Applied(offset) if marks_hold => self.changes.retain(|_, (at, _)| *at >= offset),
                Record::Applied(_) => {}
            }
            rest = &rest[size..];
            self.parsed += size as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read_at_most(file: &File, bytes: &mut [u8], from: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], from + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

fn identity(root: &OwnedFd, name: &str) -> io::Result<Option<Identity>> {
    match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What the journals of a state say and its files may not yet.
#[derive(Debug)]
pub(super) struct Replay {
    boot: Option<String>,
    old: Option<Part>,
    current: Option<Part>,
}

impl Replay {
    /// Of a state whose journals were not read yet.
    pub(super) fn new() -> Self {
        Self { boot: boot_id(), old: None, current: None }
    }

    /// Takes in what was written up to now, also while the writer goes on, exchanges its journals and removes them.
    pub(super) fn refresh(&mut self, root: &OwnedFd) -> io::Result<()> {
        self.refresh_while(root, || {})
    }

    /// Tests have something happen between two steps.
    pub(super) fn refresh_while(&mut self, root: &OwnedFd, mut meanwhile: impl FnMut()) -> io::Result<()> {
        while !self.is_of(root)? {
            self.old = Part::open(root, OLD)?;
            meanwhile();
            self.current = Part::open(root, CURRENT)?;
        }
        // The newer one first: a mark in it is younger than the one in the old one that goes with it. The other way round,
        // an old value could be left standing while the newer one is taken to be in the files.
        for part in [&mut self.current, &mut self.old].into_iter().flatten() {
            part.read_on(self.boot.as_deref())?;
            meanwhile();
        }
        Ok(())
    }

    /// Whether those that are open are those that are there. Both are asked for after both were opened, so a pair that
    /// passes is one that was there together.
    fn is_of(&self, root: &OwnedFd) -> io::Result<bool> {
        let open = [&self.old, &self.current].map(|part| part.as_ref().map(|part| part.identity));
        Ok(open == [identity(root, OLD)?, identity(root, CURRENT)?])
    }

    /// Whether there is any journal.
    pub(super) fn is_there(&self) -> bool {
        self.old.is_some() || self.current.is_some()
    }

    /// What became of a key; `None` where the file tells.
    pub(super) fn find(&self, key: &str) -> Option<&Option<Bytes>> {
        let of = |part: &'_ Option<Part>| part.as_ref().is_some_and(|part| part.changes.contains_key(key));
        let part = if of(&self.current) { &self.current } else { &self.old };
        part.as_ref()?.changes.get(key).map(|(_, value)| value)
    }

    /// All of it.
    pub(super) fn changes(&self) -> Changes {
        let parts = [&self.old, &self.current].into_iter().flatten();
        parts.flat_map(|part| part.changes.iter()).map(|(key, (_, value))| (key.clone(), value.clone())).collect()
    }

    /// Forces the journals themselves to disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        [&self.old, &self.current].into_iter().flatten().try_for_each(Part::sync)
    }
}
