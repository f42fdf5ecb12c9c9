//! Owns the folder door to a state: what a guest does in `/state/<alias>` is counted to the byte before it is done, and a
//! file that it closed in an outbox is taken from it.
//!
//! WASI's own implementation does the work; what is here stands before it. A guest without a state that it may write to
//! passes by: one look at an `Option` for each call. States hold files and folders alone: links of either kind are refused,
//! so a path without them names one place, and nothing is moved into a state or out of it but by copying.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spec::StateDoor;
use crate::state::{Full, StateClass, StateHandle};

pub(super) mod p1;
pub(super) mod p2;
mod stream;

#[cfg(test)]
mod tests;

/// The folder of a synced state whose files are taken when they are closed.
const OUTBOX: &str = "outbox";

/// What a guest has of the states that it may write to.
#[derive(Debug)]
pub(super) struct Doors {
    doors: Vec<Door>,
    /// What it has open, by the number that it knows it by.
    open: HashMap<u32, Open>,
}

/// The way into one state. Cheap to clone.
#[derive(Debug, Clone)]
struct Door {
    /// As the guest sees it.
    path: Arc<str>,
    handle: Arc<StateHandle>,
    files: Arc<Mutex<Files>>,
    outbox: bool,
}

/// The open files of one state, by inode.
type Files = HashMap<u64, OpenFile>;

#[derive(Debug)]
struct OpenFile {
    /// As it will be when all that was let through is written.
    size: u64,
    opens: u32,
    /// Whether somebody opened it to write.
    written: bool,
    removed: bool,
    path: String,
}

#[derive(Debug, Clone)]
struct Open {
    door: usize,
    /// Below the state's folder, without `.` and `..`; empty for the folder itself.
    path: String,
    /// The inode, for a file.
    file: Option<u64>,
    append: bool,
}

/// A place in a state.
#[derive(Debug, Clone)]
struct Place {
    door: usize,
    path: String,
}

/// A file that is about to be opened.
#[derive(Debug)]
struct Opening {
    place: Place,
    created: bool,
    truncated: bool,
    writes: bool,
    append: bool,
}

/// A file that is about to be removed.
#[derive(Debug)]
struct Removal {
    door: usize,
    inode: u64,
    size: u64,
}

/// Room that was made for a write.
#[derive(Debug)]
struct Reserved {
    door: Door,
    inode: u64,
    before: u64,
    at: u64,
    after: u64,
}

/// Why something is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum No {
    /// The quota is reached.
    Space,
    /// It would lead out of the state.
    CrossDevice,
    /// States have none of that.
    Unsupported,
    /// The state's keys could not be brought into its files.
    Io,
    /// Guests have as many open as they may.
    Descriptors,
}

impl From<Full> for No {
    fn from(_: Full) -> Self {
        Self::Space
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `path` seen from `base`, without `.` and `..`; `None` when it leads out.
fn join(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

impl Door {
    fn host(&self, path: &str) -> PathBuf {
        self.handle.data().join(path)
    }

    fn look(&self, path: &str) -> Option<Metadata> {
        std::fs::symlink_metadata(self.host(path)).ok()
    }

    /// The name in the outbox that a path stands for, if a file that is closed there is taken.
    fn in_outbox<'a>(&self, path: &'a str) -> Option<&'a str> {
        let name = path.strip_prefix(OUTBOX)?.strip_prefix('/')?;
        (self.outbox && !name.contains('/') && !name.starts_with('.')).then_some(name)
    }

    fn take(&self, name: &str) -> io::Result<()> {
        self.handle.take_outbox(name.as_ref())
    }
}

impl Doors {
    /// Of a guest that is given `states`; `None` when it may write to none of them.
    pub(super) fn new(states: &[StateDoor]) -> Option<Box<Self>> {
        let writable = states.iter().filter(|state| !state.handle.read_only());
        let doors: Vec<_> = writable
            .map(|state| Door {
                path: state.guest_path().into(),
                handle: Arc::clone(&state.handle),
                files: Arc::default(),
                outbox: state.handle.state().class == StateClass::Synced,
            })
            .collect();
        if doors.is_empty() { None } else { Some(Box::new(Self { doors, open: HashMap::new() })) }
    }

    /// The guest knows the folder of a state by this number.
    pub(super) fn preopened(&mut self, number: u32, state: &Arc<StateHandle>) {
        if let Some(door) = self.doors.iter().position(|door| Arc::ptr_eq(&door.handle, state)) {
            self.open.insert(number, Open { door, path: String::new(), file: None, append: false });
        }
    }

    /// The state that a guest sees as the folder `path`.
    fn by_path(&self, path: &str) -> Option<Arc<StateHandle>> {
        self.doors.iter().find(|door| *door.path == *path).map(|door| Arc::clone(&door.handle))
    }

    /// What a stream into a file is counted by; `None` for a file of no state.
    fn stream(&self, number: u32) -> Option<(Door, u64)> {
        let open = self.open.get(&number)?;
        Some((self.door(open.door).clone(), open.file?))
    }

    /// The place that a path below a folder names; `None` outside of these states.
    fn place(&self, folder: u32, path: &str) -> Option<Place> {
        let open = self.open.get(&folder).filter(|open| open.file.is_none())?;
        // One that leads out is refused by WASI itself.
        Some(Place { door: open.door, path: join(&open.path, path)? })
    }

    fn door(&self, door: usize) -> &Door {
        &self.doors[door]
    }

    /// The files of a state with keys are brought up to date before somebody looks at them.
    fn settle(&self, folder: u32) -> Result<(), No> {
        match self.open.get(&folder) {
            Some(open) => self.door(open.door).handle.settle().map_err(|_| No::Io),
            None => Ok(()),
        }
    }

    fn opening(
        &self,
        folder: u32,
        path: &str,
        (create, truncate): (bool, bool),
        (writes, append): (bool, bool),
    ) -> Result<Option<Opening>, No> {
        let Some(place) = self.place(folder, path) else { return Ok(None) };
        self.settle(folder)?;
        let door = self.door(place.door);
        let created = create && door.look(&place.path).is_none();
        if created {
            door.handle.usage().add_entry()?;
        }
        Ok(Some(Opening { place, created, truncated: truncate, writes, append }))
    }

    fn not_opened(&self, opening: &Opening) {
        if opening.created {
            self.door(opening.place.door).handle.usage().remove_entry();
        }
    }

    /// It was opened, and the guest knows it by this number.
    fn opened(&mut self, number: u32, opening: Opening) {
        let Opening { place, created, truncated, writes, append } = opening;
        let door = self.door(place.door);
        let Some(found) = door.look(&place.path) else { return };
        let mut file = None;
        if found.is_file() {
            file = Some(found.ino());
            let mut files = lock(&door.files);
            let known = files.entry(found.ino()).or_insert_with(|| OpenFile {
                size: found.size(),
                opens: 0,
                written: false,
                removed: false,
                path: place.path.clone(),
            });
            known.opens += 1;
            known.written |= writes || created;
            if truncated {
                known.size = 0;
            }
        }
        self.open.insert(number, Open { door: place.door, path: place.path, file, append });
    }

    /// How long a file is that is about to be cut to nothing by being opened.
    fn to_be_truncated(&self, opening: &Opening) -> u64 {
        if !opening.truncated || opening.created {
            return 0;
        }
        let door = self.door(opening.place.door);
        door.look(&opening.place.path).filter(Metadata::is_file).map_or(0, |found| {
            // Room may have been made for what isn't written yet.
            lock(&door.files).get(&found.ino()).map_or(found.size(), |known| known.size)
        })
    }

    fn gave_back(&self, opening: &Opening, bytes: u64) {
        self.door(opening.place.door).handle.usage().shrink(bytes);
    }

    /// Makes room for a write of `length` bytes at `offset`, or at the end. `None`: not a file of these states.
    fn writing(&self, number: u32, offset: Option<u64>, length: u64) -> Result<Option<Reserved>, No> {
        let Some(Open { door, file: Some(inode), append, .. }) = self.open.get(&number) else { return Ok(None) };
        let offset = if *append { None } else { offset };
        reserve(self.door(*door), *inode, offset, length).map(Some)
    }

    /// What the guest's flags for a file say now.
    fn set_append(&mut self, number: u32, append: bool) {
        if let Some(open) = self.open.get_mut(&number) {
            open.append = append;
        }
    }

    /// A file's length changes. `None`: not a file of these states.
    fn resizing(&self, number: u32, length: u64) -> Result<Option<Reserved>, No> {
        let Some(Open { door, file: Some(inode), .. }) = self.open.get(&number) else { return Ok(None) };
        let door = self.door(*door).clone();
        let mut files = lock(&door.files);
        let Some(file) = files.get_mut(inode) else { return Ok(None) };
        let before = file.size;
        door.handle.usage().change(before, length)?;
        file.size = length;
        drop(files);
        Ok(Some(Reserved { inode: *inode, before, at: 0, after: length, door }))
    }

    /// The guest has closed what it knew by this number. A file of an outbox is taken from it.
    fn closed(&mut self, number: u32) -> io::Result<()> {
        let Some(Open { door, file: Some(inode), .. }) = self.open.remove(&number) else { return Ok(()) };
        let door = self.door(door);
        let mut files = lock(&door.files);
        let Some(file) = files.get_mut(&inode) else { return Ok(()) };
        file.opens -= 1;
        if file.opens > 0 {
            return Ok(());
        }
        let Some(file) = files.remove(&inode) else { return Ok(()) };
        drop(files);
        if file.removed {
            door.handle.usage().shrink(file.size);
            return Ok(());
        }
        // What failed in the middle may have been counted and not written.
        if let Some(found) = door.look(&file.path).filter(|found| found.ino() == inode && found.size() != file.size) {
            let _ = door.handle.usage().change(file.size, found.size());
        }
        match door.in_outbox(&file.path) {
            Some(name) if file.written => door.take(name),
            _ => Ok(()),
        }
    }

    /// What the guest knew by one number it knows by another, which is closed by that.
    fn renumbered(&mut self, from: u32, to: u32) -> io::Result<()> {
        let done = self.closed(to);
        self.open.remove(&to);
        if let Some(open) = self.open.remove(&from) {
            self.open.insert(to, open);
        }
        done
    }

    /// The guest has ended by itself, which closes what it left open.
    pub(super) fn finish(&mut self) {
        let numbers: Vec<u32> = self.open.keys().copied().collect();
        for number in numbers {
            // Nobody is left to be told. What isn't taken stays in the outbox.
            if let Err(e) = self.closed(number) {
                tracing::error!(error = %e, "a file of an outbox could not be taken; it stays there");
            }
        }
    }

    fn removal_at(&self, place: &Place) -> Option<Removal> {
        let found = self.door(place.door).look(&place.path)?;
        let size = if found.is_file() { found.size() } else { 0 };
        Some(Removal { door: place.door, inode: found.ino(), size })
    }

    fn removing(&self, folder: u32, path: &str) -> Result<Option<Removal>, No> {
        let Some(place) = self.place(folder, path) else { return Ok(None) };
        self.settle(folder)?;
        Ok(self.removal_at(&place))
    }

    fn removed(&self, removal: &Removal) {
        let door = self.door(removal.door);
        door.handle.usage().remove_entry();
        match lock(&door.files).get_mut(&removal.inode) {
            // Its bytes go when the last that has it open closes it.
            Some(file) => file.removed = true,
            None => door.handle.usage().shrink(removal.size),
        }
    }

    /// A folder is about to be made. `None`: not in these states.
    fn making_folder(&self, folder: u32, path: &str) -> Result<Option<usize>, No> {
        let Some(place) = self.place(folder, path) else { return Ok(None) };
        self.door(place.door).handle.usage().add_entry()?;
        Ok(Some(place.door))
    }

    fn folder_not_made(&self, door: usize) {
        self.door(door).handle.usage().remove_entry();
    }

    /// Something is about to be renamed: where it stands and will stand, and what goes by it.
    fn renaming(
        &self,
        (from_folder, from): (u32, &str),
        (to_folder, to): (u32, &str),
    ) -> Result<Option<(Place, Place, Option<Removal>)>, No> {
        let (known_from, known_to) = (self.open.get(&from_folder), self.open.get(&to_folder));
        if known_from.map(|open| open.door) != known_to.map(|open| open.door) {
            return Err(No::CrossDevice);
        }
        let (Some(from), Some(to)) = (self.place(from_folder, from), self.place(to_folder, to)) else {
            return Ok(None);
        };
        self.settle(from_folder)?;
        let moved = self.removal_at(&from);
        let replaced =
            self.removal_at(&to).filter(|replaced| moved.as_ref().is_some_and(|m| m.inode != replaced.inode));
        Ok(Some((from, to, replaced)))
    }

    fn renamed(&mut self, (from, to, replaced): (Place, Place, Option<Removal>)) -> io::Result<()> {
        if let Some(replaced) = &replaced {
            self.removed(replaced);
        }
        let moved = |path: &str| -> Option<String> {
            let rest = path.strip_prefix(&from.path)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{}{rest}", to.path))
        };
        let door = self.doors[from.door].clone();
        for open in self.open.values_mut().filter(|open| open.door == from.door) {
            if let Some(path) = moved(&open.path) {
                open.path = path;
            }
        }
        let mut files = lock(&door.files);
        // A file that is still open there is taken when it is closed.
        let mut is_open = false;
        for file in files.values_mut() {
            if let Some(path) = moved(&file.path).filter(|_| !file.removed) {
                is_open |= path == to.path;
                file.path = path;
            }
        }
        drop(files);
        match door.in_outbox(&to.path) {
            Some(name) if !is_open && door.look(&to.path).is_some_and(|found| found.is_file()) => door.take(name),
            _ => Ok(()),
        }
    }

    /// Links are about to be made from or to these folders.
    fn linking(&self, folders: &[u32]) -> Result<(), No> {
        if folders.iter().any(|folder| self.open.contains_key(folder)) { Err(No::Unsupported) } else { Ok(()) }
    }
}

impl Doors {
    /// The states that had no room for something, with what they may hold in bytes. It is said once.
    pub(super) fn full(&self) -> Vec<(String, u64)> {
        let full = self.doors.iter().filter(|door| door.handle.usage().take_refusal());
        full.map(|door| (door.handle.state().name.to_string(), door.handle.usage().quota())).collect()
    }
}

fn reserve(door: &Door, inode: u64, offset: Option<u64>, length: u64) -> Result<Reserved, No> {
    let mut files = lock(&door.files);
    let file = files.get_mut(&inode).ok_or(No::Io)?;
    let (before, at) = (file.size, offset.unwrap_or(file.size));
    let end = if length == 0 { before } else { at.checked_add(length).ok_or(No::Space)? };
    let after = before.max(end);
    door.handle.usage().change(before, after)?;
    file.size = after;
    drop(files);
    Ok(Reserved { door: door.clone(), inode, before, at, after })
}

impl Reserved {
    /// Only so many bytes were written.
    fn wrote(&self, length: u64) {
        let end = if length == 0 { self.before } else { self.before.max(self.at.saturating_add(length)) };
        self.became(end);
    }

    /// Nothing came of it.
    fn undo(&self) {
        self.became(self.before);
    }

    fn became(&self, size: u64) {
        if size == self.after {
            return;
        }
        let mut files = lock(&self.door.files);
        if let Some(file) = files.get_mut(&self.inode).filter(|file| file.size == self.after) {
            let _ = self.door.handle.usage().change(self.after, size);
            file.size = size;
        }
    }
}
