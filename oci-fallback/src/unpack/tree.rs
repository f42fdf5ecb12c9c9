//! Owns the folder a layer is unpacked into, together with the layers below it: paths are resolved in what a container would
//! see, links confined to its root, and a folder that is only below is made above with what it was.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound::{Excluded, Included};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::below::{Below, below, below_raw};
use super::beneath::{self, is_whiteout, kind};
use super::budget::Budget;
use super::fault::{Attempted, Fault};
use super::header::Moment;
use super::name;
use crate::snapshot::{Method, Rights};

/// As many links as Linux follows in one path.
pub(super) const MOST_LINKS: usize = 40;
/// Parts of ways that a layer's entries may need together: links that lead to links make a few entries cost as many as they like.
const MOST_STEPS: u64 = 20_000_000;
/// How many descriptors of folders are kept.
const MOST_OPEN: usize = 256;

/// What was left out of an image, which isn't an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeftOut {
    /// Device nodes that could not be made, or would act as a whiteout.
    pub devices: u64,
    /// Extended attributes that the file system or the rights don't allow, and those that are the machine's own.
    pub attributes: u64,
}

/// A folder as a container would see it.
#[derive(Debug)]
pub(super) struct Folder {
    /// From the root, with no link in it.
    pub(super) path: Vec<u8>,
    /// In the layer that is being made, if it is there.
    pub(super) upper: Option<OwnedFd>,
    /// In the layers below, the highest first.
    pub(super) lower: Vec<OwnedFd>,
}

/// What a folder gets once nothing is made in it any more: its time would change, and what it hands down to new files and who
/// may write to it would matter.
#[derive(Debug)]
pub(super) struct Finish {
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: u32,
    pub(super) changed: Option<Moment>,
    pub(super) read: Option<Moment>,
    pub(super) attributes: Attributes,
}

impl Finish {
    /// A folder that no layer says anything about.
    fn new() -> Self {
        Self { owner: Some((0, 0)), mode: 0o755, changed: None, read: None, attributes: Vec::new() }
    }

    /// What a folder has.
    fn of(folder: impl AsFd, stat: &Stat) -> Result<Self, Errno> {
        Ok(Self {
            owner: Some((stat.st_uid, stat.st_gid)),
            mode: stat.st_mode & 0o7777,
            changed: Some((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))),
            read: None,
            attributes: attributes::all(folder)?,
        })
    }

    /// How many bytes it holds in memory, with its path.
    fn held(&self, path: &[u8]) -> u64 {
        let attributes = self.attributes.iter().map(|(name, value)| held(name) + held(value)).sum::<u64>();
        size_of::<Self>() as u64 + held(path) + attributes
    }
}

/// How many bytes of memory a text of its own takes.
fn held(text: &[u8]) -> u64 {
    (size_of::<Vec<u8>>() + text.len()) as u64
}

enum Step {
    Folder(Rc<Folder>),
    Link(Vec<u8>),
    Nothing,
    Other,
}

/// The tree that is being made.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: Rc<Folder>,
    pub(super) budget: &'a Budget<'a>,
    pub(super) method: Method,
    pub(super) rights: Rights,
    /// Folders by path. Every part of each path is a folder, not a link.
    pub(super) open: HashMap<Vec<u8>, Rc<Folder>>,
    descriptors: usize,
    finish: BTreeMap<Vec<u8>, Finish>,
    /// What this layer has made, where lower layers lie in the same folder; `None` while it is the first.
    pub(super) made: Option<HashSet<Vec<u8>>>,
    /// Folders that had all taken away that lower layers have in them: this layer need not look again.
    emptied: HashSet<Vec<u8>>,
    /// What these three hold in memory, in bytes.
    held: u64,
    /// The parts of ways that were gone, for all entries.
    steps: u64,
    pub(crate) left_out: LeftOut,
}

impl<'a> Tree<'a> {
    /// A tree in the folder `upper`, over the layers `lower`, the highest first.
    ///
    /// # Errors
    /// The root of the layer below can't be read.
    pub(crate) fn new(
        upper: OwnedFd,
        lower: Vec<OwnedFd>,
        method: Method,
        rights: Rights,
        filled: bool,
        budget: &'a Budget<'a>,
    ) -> Result<Self, Errno> {
        let root = match lower.first() {
            Some(below) => Finish::of(below, &rustix::fs::fstat(below)?)?,
            None if filled => Finish::of(&upper, &rustix::fs::fstat(&upper)?)?,
            None => Finish::new(),
        };
        rustix::fs::fchmod(&upper, Mode::RWXU)?;
        let mut tree = Self::view(Some(upper), lower, method, rights, budget);
        tree.finish_with(Vec::new(), root);
        tree.made = filled.then(HashSet::new);
        Ok(tree)
    }

    /// The layers as a container sees them, to be read only.
    pub(crate) fn view(
        upper: Option<OwnedFd>,
        lower: Vec<OwnedFd>,
        method: Method,
        rights: Rights,
        budget: &'a Budget<'a>,
    ) -> Self {
        Self {
            root: Rc::new(Folder { path: Vec::new(), upper, lower }),
            budget,
            method,
            rights,
            open: HashMap::new(),
            descriptors: 0,
            finish: BTreeMap::new(),
            made: None,
            emptied: HashSet::new(),
            held: 0,
            steps: 0,
            left_out: LeftOut::default(),
        }
    }

    /// The folder at a path, links followed inside of the root; `None` where there is none. With `make` what is missing is
    /// made, so that there always is one, and it is in the layer being made.
    pub(super) fn resolve(&mut self, path: &[u8], make: bool) -> Result<Option<Rc<Folder>>, Fault> {
        if let Some(folder) = self.known(path, make) {
            return Ok(Some(folder));
        }
        let mut todo: Vec<Vec<u8>> = path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut at = Rc::clone(&self.root);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Err(Fault::Refused("its entries' ways have more than 20 million parts together"));
            }
            if self.steps.is_multiple_of(1024) {
                self.budget.wanted()?;
            }
            if matches!(&part[..], b"" | b".") {
                continue;
            }
            if part == b".." {
                let parent = name::split(&at.path).0.to_vec();
                let Some(folder) = self.resolve(&parent, make)? else {
                    return Ok(None);
                };
                at = folder;
                continue;
            }
            match self.step(&at, &part, make)? {
                Step::Folder(folder) => {
                    // One entry may lead to very many, of which each is finished at the end.
                    self.held_is_little()?;
                    at = folder;
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Fault::Refused("more than 40 symbolic links lead to it"));
                    }
                    if target.starts_with(b"/") {
                        at = Rc::clone(&self.root);
                    }
                    todo.extend(target.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
                }
                Step::Nothing => return Ok(None),
                Step::Other if make => return Err(Fault::Refused("it lies below something that isn't a folder")),
                Step::Other => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn known(&self, path: &[u8], make: bool) -> Option<Rc<Folder>> {
        if path.is_empty() {
            return Some(Rc::clone(&self.root));
        }
        self.open.get(path).filter(|folder| folder.upper.is_some() || !make).cloned()
    }

    /// One part further.
    fn step(&mut self, at: &Rc<Folder>, part: &[u8], make: bool) -> Result<Step, Fault> {
        let path = name::join(&at.path, part);
        if let Some(folder) = self.known(&path, make) {
            return Ok(Step::Folder(folder));
        }
        let mut hidden = false;
        if let Some(upper) = &at.upper {
            match self.open_upper(at, part, &path) {
                Ok(folder) => return Ok(Step::Folder(self.keep(folder))),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = beneath::look(upper, part).attempted("look for its folder")?;
                    match stat {
                        Some(stat) if is_whiteout(&stat) => hidden = true,
                        Some(stat) if kind(&stat) == FileType::Symlink => {
                            return Ok(Step::Link(beneath::link_target(upper, part).attempted("read a link")?));
                        }
                        _ => return Ok(Step::Other),
                    }
                }
                Err(e) => return Err(e).attempted("open its folder"),
            }
        }
        let below = if hidden { Below::Nothing } else { below(&at.lower, part, self.rights)? };
        let lower = match below {
            Below::Other(layer, stat) if kind(&stat) == FileType::Symlink => {
                let target = beneath::link_target(&at.lower[layer], part).attempted("read a link")?;
                return Ok(Step::Link(target));
            }
            Below::Other(..) => return Ok(Step::Other),
            Below::Nothing if !make => return Ok(Step::Nothing),
            Below::Folder(lower) if !make => return Ok(Step::Folder(self.keep(Folder { path, upper: None, lower }))),
            Below::Nothing => Vec::new(),
            Below::Folder(lower) => lower,
        };
        let finish = match lower.first() {
            Some(below) => {
                let stat = rustix::fs::fstat(below).attempted("look at its folder in the layer below")?;
                Finish::of(below, &stat).attempted("read its folder's attributes in the layer below")?
            }
            None => Finish::new(),
        };
        self.budget.entry()?;
        self.make_folder(at, part, finish, hidden)?;
        let upper = at.upper.as_ref().map(|upper| rustix::fs::openat(upper, part, beneath::FOLDER, Mode::empty()));
        let upper = upper.transpose().attempted("open its folder")?;
        Ok(Step::Folder(self.keep(Folder { path, upper, lower })))
    }

    /// Makes a folder that isn't there, but for a whiteout: one that hides what is below.
    pub(super) fn make_folder(&mut self, at: &Folder, part: &[u8], finish: Finish, hides: bool) -> Result<(), Fault> {
        let path = name::join(&at.path, part);
        name::bounded(&path).map_err(Fault::Refused)?;
        let upper = at.upper.as_ref().ok_or(Errno::NOENT).attempted("make a folder")?;
        if hides {
            beneath::remove(upper.as_fd(), part).attempted("replace what is there")?;
        }
        rustix::fs::mkdirat(upper, part, Mode::RWXU).attempted("make a folder")?;
        if hides {
            let made = rustix::fs::openat(upper, part, beneath::FOLDER, Mode::empty()).attempted("open a folder")?;
            attributes::make_opaque(made, self.rights).attempted("mark a folder opaque")?;
        }
        self.open.remove(&path);
        self.note(&path);
        self.finish_with(path, finish);
        Ok(())
    }

    /// Opens a folder of the layer being made, and what lies below it.
    fn open_upper(&mut self, at: &Folder, part: &[u8], path: &[u8]) -> Result<Folder, Errno> {
        let upper = at.upper.as_ref().ok_or(Errno::NOENT)?;
        let mut opened = rustix::fs::openat(upper, part, beneath::FOLDER, Mode::empty());
        if matches!(opened, Err(Errno::ACCESS)) && self.rights == Rights::User {
            // It was there before this layer, with the mode it is to have. That is put back at the end.
            let stat = beneath::look(upper, part)?.ok_or(Errno::NOENT)?;
            if kind(&stat) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            rustix::fs::chmodat(upper, part, Mode::RWXU, rustix::fs::AtFlags::empty())?;
            opened = rustix::fs::openat(upper, part, beneath::FOLDER, Mode::empty());
            let finish = Finish { mode: stat.st_mode & 0o7777, ..Finish::of(opened.as_ref().map_err(|e| *e)?, &stat)? };
            self.finish_with(path.to_vec(), finish);
        }
        let folder = opened?;
        if !self.finish.contains_key(path) {
            let finish = Finish::of(&folder, &rustix::fs::fstat(&folder)?)?;
            // What it hands down to new files is put back at the end.
            if finish.attributes.iter().any(|(name, _)| name == attributes::INHERITED) {
                attributes::clear(&folder)?;
            }
            rustix::fs::fchmod(&folder, Mode::RWXU)?;
            self.finish_with(path.to_vec(), finish);
        }
        let mut lower = Vec::new();
        if !at.lower.is_empty()
            && !attributes::is_opaque(&folder, self.rights)
            && let Below::Folder(folders) = below_raw(&at.lower, part, self.rights)?
        {
            lower = folders;
        }
        Ok(Folder { path: path.to_vec(), upper: Some(folder), lower })
    }

    fn keep(&mut self, folder: Folder) -> Rc<Folder> {
        if self.descriptors > MOST_OPEN {
            self.forget();
        }
        self.descriptors += 1 + folder.lower.len();
        let folder = Rc::new(folder);
        self.open.insert(folder.path.clone(), Rc::clone(&folder));
        folder
    }

    /// To be called when a folder or a link may have become something else.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.descriptors = 0;
    }

    /// Remembers that this layer has made a path, and so everything above it.
    pub(super) fn note(&mut self, path: &[u8]) {
        if let Some(made) = &mut self.made {
            let mut path = path;
            while !path.is_empty() && made.insert(path.to_vec()) {
                self.held += held(path);
                path = name::split(path).0;
            }
        }
    }

    /// Remembers that nothing of the lower layers is left in a folder. What is made there later is of this layer, and so it
    /// stays true, whatever becomes of the folder.
    pub(super) fn emptied(&mut self, path: &[u8]) {
        if self.emptied.insert(path.to_vec()) {
            self.held += held(path);
        }
    }

    /// Whether nothing of the lower layers is left in a folder, because it has been said of it or of one above.
    pub(super) fn is_emptied(&self, path: &[u8]) -> bool {
        let mut path = path;
        loop {
            if self.emptied.contains(path) {
                return true;
            }
            if path.is_empty() {
                return false;
            }
            path = name::split(path).0;
        }
    }

    /// What a folder gets at the end.
    pub(super) fn finish_with(&mut self, path: Vec<u8>, finish: Finish) {
        self.unfinish(&path);
        self.held += finish.held(&path);
        self.finish.insert(path, finish);
    }

    /// A folder that is gone gets nothing.
    fn unfinish(&mut self, path: &[u8]) {
        if let Some(finish) = self.finish.remove(path) {
            self.held -= finish.held(path);
        }
    }

    /// Refuses a layer that makes too much be remembered until its end.
    pub(super) fn held_is_little(&self) -> Result<(), Fault> {
        self.budget.holds(self.held)
    }

    /// Removes a name of the layer being made, and all below it.
    pub(super) fn remove(&mut self, at: &Folder, part: &[u8], stat: &Stat) -> Result<(), Fault> {
        let upper = at.upper.as_ref().ok_or(Errno::NOENT).attempted("replace what is there")?;
        beneath::remove(upper.as_fd(), part).attempted("replace what is there")?;
        match kind(stat) {
            FileType::Directory => {
                let path = name::join(&at.path, part);
                let mut inside = path.clone();
                inside.push(b'/');
                self.unfinish(&path);
                // The byte after a slash is `0`, so this is all that begins with the folder.
                let mut end = path;
                end.push(b'0');
                // One after the other: a list of them all would be as large as what is held.
                while let Some((gone, _)) =
                    self.finish.range::<[u8], _>((Included(&inside[..]), Excluded(&end[..]))).next()
                {
                    let gone = gone.clone();
                    self.unfinish(&gone);
                }
                self.forget();
            }
            FileType::Symlink => self.forget(),
            _ => {}
        }
        Ok(())
    }

    /// Ends a layer: folders get what they are to have, the deepest first. Another may follow in the same tree.
    pub(crate) fn finish_layer(&mut self) -> Result<(), (Vec<u8>, Fault)> {
        let finish = std::mem::take(&mut self.finish);
        for (path, finish) in finish.into_iter().rev() {
            if let Err(fault) = self.budget.wanted().and_then(|()| self.finish_folder(&path, finish)) {
                return Err((path, fault));
            }
        }
        self.forget();
        self.made = Some(HashSet::new()).filter(|_| self.method == Method::Flat);
        self.emptied.clear();
        self.held = 0;
        Ok(())
    }

    fn finish_folder(&mut self, path: &[u8], finish: Finish) -> Result<(), Fault> {
        let opened;
        let known = self.known(path, true);
        let folder = match known.as_ref().and_then(|folder| folder.upper.as_ref()) {
            Some(folder) => folder.as_fd(),
            None => {
                let root = self.root.upper.as_ref().ok_or(Errno::NOENT).attempted("finish a folder")?;
                opened = beneath::open_folder(root.as_fd(), path).attempted("open a folder to finish it")?;
                opened.as_fd()
            }
        };
        if self.rights == Rights::Root
            && let Some((uid, gid)) = finish.owner
        {
            chown(folder, uid, gid)?;
        }
        self.left_out.attributes += attributes::set(folder, &finish.attributes)?;
        // Whoever isn't root must be able to look into it when it is a lower layer; root in a container may anyway.
        let least = if self.rights == Rights::User { 0o500 } else { 0 };
        rustix::fs::fchmod(folder, Mode::from_raw_mode(finish.mode | least)).attempted("set a folder's mode")?;
        if let Some(changed) = finish.changed {
            let times = times(changed, finish.read);
            rustix::fs::futimens(folder, &times).attempted("set a folder's times")?;
        }
        Ok(())
    }

    /// The descriptor of the root of what is being made.
    pub(super) fn root(&self) -> &Rc<Folder> {
        &self.root
    }
}

/// Both times; a file that was never read was read when it was changed.
pub(super) fn times(changed: Moment, read: Option<Moment>) -> Timestamps {
    let spec = |(seconds, nanos): Moment| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: spec(read.unwrap_or(changed)), last_modification: spec(changed) }
}

/// Gives an open file or folder an owner.
pub(super) fn chown(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Fault> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).attempted("set its owner")
}
