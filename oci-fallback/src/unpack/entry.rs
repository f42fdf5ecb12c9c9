//! Owns making one entry of an archive: files, folders, links, devices, whiteouts.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::archive::{Archive, Entry};
use super::attributes;
use super::below::{Below, below};
use super::beneath::{self, is_whiteout, kind};
use super::fault::{Attempted, Fault};
use super::header::{Header, Kind};
use super::name::{self, Meaning};
use super::tree::{Finish, Folder, Tree, chown, times};
use crate::snapshot::{self, Method, Rights};

impl Tree<'_> {
    /// Makes one entry.
    pub(super) fn put<R: BufRead>(&mut self, entry: &mut Entry, archive: &mut Archive<'_, R>) -> Result<(), Fault> {
        let path = name::clean(&entry.header.name).map_err(Fault::Refused)?;
        match name::meaning(&path).map_err(Fault::Refused)? {
            Meaning::Aufs => return Ok(()),
            Meaning::Opaque => return self.opaque(name::split(&path).0),
            Meaning::Whiteout(gone) => return self.whiteout(name::split(&path).0, gone),
            Meaning::File => {}
        }
        if path.is_empty() {
            if entry.header.kind != Kind::Folder {
                return Err(Fault::Refused("the root can only be a folder"));
            }
            let root = Rc::clone(self.root());
            return self.settle_folder(&root, &mut entry.header);
        }
        let (folder, last) = name::split(&path);
        let at = self.resolve(folder, true)?.ok_or(Errno::NOENT).attempted("find its folder")?;
        if at.path.len() != folder.len() {
            name::bounded(&name::join(&at.path, last)).map_err(Fault::Refused)?;
        }
        match entry.header.kind {
            Kind::Folder => self.folder(&at, last, &mut entry.header)?,
            Kind::File => self.file(&at, last, entry, archive)?,
            Kind::Symlink => self.symlink(&at, last, &entry.header)?,
            Kind::Link => self.link(&at, last, &entry.header.target)?,
            Kind::Char | Kind::BlockDevice | Kind::Fifo => self.node(&at, last, &entry.header)?,
        }
        if self.made.is_some() || !at.lower.is_empty() {
            let path = name::join(&at.path, last);
            self.note(&path);
            // It may hide a folder that was looked into below, or one in that.
            let hidden = |open: &[u8]| open.strip_prefix(&path[..]).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
            if entry.header.kind != Kind::Folder && self.open.keys().any(|open| hidden(open)) {
                self.forget();
            }
        }
        Ok(())
    }

    /// Makes with `make`, and once more after what is there has been removed.
    fn replacing<T>(
        &mut self,
        at: &Folder,
        last: &[u8],
        make: impl Fn(&Folder) -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        match make(at) {
            Err(Errno::EXIST) => {
                if let Some(stat) = beneath::look(upper(at)?, last).attempted("look at what is there")? {
                    self.remove(at, last, &stat)?;
                }
                make(at).attempted("make it")
            }
            done => done.attempted("make it"),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        at: &Folder,
        last: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), Fault> {
        let header = &entry.header;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.replacing(at, last, |at| {
            rustix::fs::openat(at.upper.as_ref().ok_or(Errno::NOENT)?, last, flags, Mode::RUSR | Mode::WUSR)
        })?;
        if let Some(pieces) = &entry.pieces {
            archive.data(Some(pieces), |offset, bytes| write_at(&file, offset, bytes))?;
            rustix::fs::ftruncate(&file, header.size).attempted("set its size")?;
        } else if header.size > 0 {
            archive.data(None, |_, bytes| write(&file, bytes))?;
        }
        // Writing takes set-uid bits and capabilities away, and so does a change of the owner: these come last.
        if self.rights == Rights::Root {
            chown(&file, header.uid, header.gid)?;
        }
        if !header.attributes.is_empty() {
            self.left_out.attributes += attributes::set(&file, &header.attributes)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(header.mode)).attempted("set its mode")?;
        rustix::fs::futimens(&file, &times(header.changed, header.read)).attempted("set its times")
    }

    fn folder(&mut self, at: &Rc<Folder>, last: &[u8], header: &mut Header) -> Result<(), Fault> {
        match beneath_make(at, last) {
            Ok(()) => {
                let path = name::join(&at.path, last);
                name::bounded(&path).map_err(Fault::Refused)?;
                self.open.remove(&path);
                self.finish_with(path, finish(header));
                Ok(())
            }
            Err(Errno::EXIST) => {
                let stat = beneath::look(upper(at)?, last).attempted("look at what is there")?;
                let stat = stat.ok_or(Errno::NOENT).attempted("look at what is there")?;
                if kind(&stat) == FileType::Directory {
                    let folder = self.resolve(&name::join(&at.path, last), true)?;
                    let folder = folder.ok_or(Errno::NOENT).attempted("open it")?;
                    return self.settle_folder(&folder, header);
                }
                self.remove(at, last, &stat)?;
                // What it replaces, a whiteout or a file of this layer, has hidden what lies below, and so must the folder.
                let hides = matches!(below(&at.lower, last, self.rights)?, Below::Folder(_));
                self.make_folder(at, last, finish(header), hides)
            }
            done => done.attempted("make it"),
        }
    }

    /// A folder that is there gets what this entry says, and nothing it had before.
    fn settle_folder(&mut self, folder: &Folder, header: &mut Header) -> Result<(), Fault> {
        attributes::clear(upper(folder)?).attempted("remove a folder's attributes")?;
        self.finish_with(folder.path.clone(), finish(header));
        Ok(())
    }

    fn symlink(&mut self, at: &Folder, last: &[u8], header: &Header) -> Result<(), Fault> {
        if header.target.is_empty() || header.target.contains(&0) {
            return Err(Fault::Refused("a symbolic link must have a target"));
        }
        self.replacing(at, last, |at| {
            rustix::fs::symlinkat(&header.target, at.upper.as_ref().ok_or(Errno::NOENT)?, last)
        })?;
        self.settle_beside(at, last, header)
    }

    fn node(&mut self, at: &Folder, last: &[u8], header: &Header) -> Result<(), Fault> {
        // No device is made, by nobody: a container has its own, and one of an image's would be this machine's wherever an
        // engine mounts the root anew without `nodev`, as crun does. A device 0:0 would be a whiteout to overlayfs besides.
        if header.kind != Kind::Fifo {
            self.left_out.devices += 1;
            return Ok(());
        }
        let mode = Mode::from_raw_mode(header.mode & 0o777);
        self.replacing(at, last, |at| {
            rustix::fs::mknodat(at.upper.as_ref().ok_or(Errno::NOENT)?, last, FileType::Fifo, mode, 0)
        })?;
        self.settle_beside(at, last, header)?;
        // What was just made isn't a link, so that following one can't happen.
        rustix::fs::chmodat(upper(at)?, last, Mode::from_raw_mode(header.mode), AtFlags::empty())
            .attempted("set its mode")
    }

    /// Owner, attributes and times of what can't be opened.
    fn settle_beside(&mut self, at: &Folder, last: &[u8], header: &Header) -> Result<(), Fault> {
        let folder = upper(at)?;
        if self.rights == Rights::Root {
            let (uid, gid) = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
            rustix::fs::chownat(folder, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .attempted("set its owner")?;
        }
        if !header.attributes.is_empty() {
            self.left_out.attributes += attributes::set_beside(folder, last, &header.attributes)?;
        }
        rustix::fs::utimensat(folder, last, &times(header.changed, header.read), AtFlags::SYMLINK_NOFOLLOW)
            .attempted("set its times")
    }

    /// A hard link. One to a file of a layer below shares it: no snapshot's file is ever written to again, so it need not be
    /// copied up, but where the file system refuses: a file has only so many links, and a quota may end at a folder.
    fn link(&mut self, at: &Folder, last: &[u8], target: &[u8]) -> Result<(), Fault> {
        const MISSING: Fault = Fault::Refused("it is a hard link to a file that isn't there");
        let target =
            name::clean(target).map_err(|_| Fault::Refused("it is a hard link to a file outside of the root"))?;
        let (folder, name) = name::split(&target);
        let from = self.resolve(folder, false)?.ok_or(MISSING)?;
        if from.path == at.path && name == last {
            return Ok(());
        }
        let mut found = None;
        if let Some(upper) = &from.upper {
            found = beneath::look(upper, name).attempted("look for its target")?.map(|stat| (upper, stat));
        }
        if found.is_none()
            && let Below::Other(layer, stat) = below(&from.lower, name, self.rights)?
        {
            found = Some((&from.lower[layer], stat));
        }
        let (source, stat) = found.filter(|(_, stat)| !is_whiteout(stat)).ok_or(MISSING)?;
        if kind(&stat) == FileType::Directory {
            return Err(Fault::Refused("it is a hard link to a folder"));
        }
        let linked = self.replacing(at, last, |at| {
            match rustix::fs::linkat(source, name, at.upper.as_ref().ok_or(Errno::NOENT)?, last, AtFlags::empty()) {
                Err(Errno::MLINK | Errno::XDEV) => Ok(false),
                done => done.map(|()| true),
            }
        })?;
        if !linked {
            // It takes as much again, and an archive may have any number of links.
            self.budget.bytes(u64::try_from(stat.st_size).unwrap_or(0))?;
            let copied =
                snapshot::copy_file((source.as_fd(), name), (upper(at)?.as_fd(), last), self.rights, self.budget.stop);
            if copied == Err(Errno::CANCELED) {
                return Err(Fault::Stopped);
            }
            copied.attempted("copy what can't be linked")?;
        }
        Ok(())
    }

    /// What the layers below have of this name is gone; what this layer has stays.
    fn whiteout(&mut self, folder: &[u8], gone: &[u8]) -> Result<(), Fault> {
        let Some(at) = self.resolve(folder, false)? else {
            return Ok(());
        };
        if self.method == Method::Flat {
            let path = name::join(&at.path, gone);
            if self.made.is_some()
                && !self.is_emptied(&path)
                && let Some(stat) = beneath::look(upper(&at)?, gone).attempted("look at what is there")?
            {
                self.purge(&at, gone)?;
                // As with overlayfs, where the whiteout lies in a folder of this layer.
                self.note(&at.path);
                if kind(&stat) == FileType::Directory {
                    self.emptied(&path);
                }
            }
            return Ok(());
        }
        let was = below(&at.lower, gone, self.rights)?;
        if matches!(was, Below::Nothing) {
            return Ok(());
        }
        let there = match &at.upper {
            Some(upper) => beneath::look(upper, gone).attempted("look at what is there")?,
            None => None,
        };
        match there {
            Some(stat) if kind(&stat) == FileType::Directory => {
                let inside = rustix::fs::openat(upper(&at)?, gone, beneath::FOLDER, Mode::empty());
                let inside = inside.attempted("open a folder to mark it")?;
                if attributes::is_opaque(&inside, self.rights) {
                    return Ok(());
                }
                beneath::remove_whiteouts(inside.as_fd(), self.rights).attempted("remove whiteouts")?;
                attributes::make_opaque(inside, self.rights).attempted("mark a folder opaque")?;
            }
            Some(_) => return Ok(()),
            None => {
                let path = at.path.clone();
                let at = self.resolve(&path, true)?.ok_or(Errno::NOENT).attempted("make its folder")?;
                rustix::fs::mknodat(upper(&at)?, gone, FileType::CharacterDevice, Mode::empty(), 0)
                    .attempted("make a whiteout")?;
            }
        }
        if matches!(was, Below::Folder(_)) {
            self.forget();
        }
        Ok(())
    }

    /// All that the layers below have in this folder is gone.
    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault> {
        let Some(at) = self.resolve(folder, false)? else {
            return Ok(());
        };
        let listed = |folder: &dyn AsFd| beneath::names(folder.as_fd()).attempted("list a folder");
        if self.method == Method::Flat {
            if self.made.is_some() && !self.is_emptied(&at.path) {
                for name in listed(upper(&at)?)? {
                    self.purge(&at, &name)?;
                }
                self.emptied(&at.path);
            }
            // The layer has a folder there, if nothing else in it.
            self.note(&at.path);
            return Ok(());
        }
        if at.path.is_empty() {
            if self.is_emptied(b"") {
                return Ok(());
            }
            self.emptied(b"");
            // Overlayfs stacks all roots, whatever marks they have.
            for lower in &at.lower {
                for name in listed(lower)? {
                    self.whiteout(b"", &name)?;
                }
            }
            return Ok(());
        }
        if !at.lower.is_empty() {
            let path = at.path.clone();
            let at = self.resolve(&path, true)?.ok_or(Errno::NOENT).attempted("make it")?;
            beneath::remove_whiteouts(upper(&at)?.as_fd(), self.rights).attempted("remove whiteouts")?;
            attributes::make_opaque(upper(&at)?, self.rights).attempted("mark a folder opaque")?;
            self.forget();
        }
        Ok(())
    }

    /// Removes what this layer hasn't made.
    fn purge(&mut self, at: &Folder, gone: &[u8]) -> Result<(), Fault> {
        let Some(made) = &self.made else {
            return Ok(());
        };
        let Some(stat) = beneath::look(upper(at)?, gone).attempted("look at what is there")? else {
            return Ok(());
        };
        let path = name::join(&at.path, gone);
        if !made.contains(&path) {
            return self.remove(at, gone, &stat);
        }
        if kind(&stat) == FileType::Directory
            && !self.is_emptied(&path)
            && let Some(inside) = self.resolve(&path, false)?
        {
            for name in beneath::names(upper(&inside)?).attempted("list a folder")? {
                self.purge(&inside, &name)?;
            }
        }
        Ok(())
    }
}

fn upper(at: &Folder) -> Result<&std::os::fd::OwnedFd, Fault> {
    at.upper.as_ref().ok_or(Errno::NOENT).attempted("find its folder")
}

fn beneath_make(at: &Folder, last: &[u8]) -> Result<(), Errno> {
    rustix::fs::mkdirat(at.upper.as_ref().ok_or(Errno::NOENT)?, last, Mode::RWXU)
}

fn finish(header: &mut Header) -> Finish {
    Finish {
        owner: Some((header.uid, header.gid)),
        mode: header.mode,
        changed: Some(header.changed),
        read: header.read,
        attributes: std::mem::take(&mut header.attributes),
    }
}

fn write(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Fault> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(some) => bytes = &bytes[some..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).attempted("write it"),
        }
    }
    Ok(())
}

fn write_at(file: impl AsFd, mut offset: u64, mut bytes: &[u8]) -> Result<(), Fault> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&file, bytes, offset) {
            Ok(some) => {
                bytes = &bytes[some..];
                offset += some as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).attempted("write it"),
        }
    }
    Ok(())
}
