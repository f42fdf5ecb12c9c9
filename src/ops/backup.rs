//! Owns `vyr backup`: a copy of the data folder, taken while a node serves it, from which a node starts.
//!
//! The databases come first, each as one moment of it, by SQLite's own means: what they name was written before them, so it is
//! there when the rest is copied. Nothing is collected from the store until the copy is whole.

use std::fs::{DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Vyr;
use super::pull::blocking;
use crate::db;
use crate::error::{Error, ErrorKind, Result};

/// What the folder of the databases is called, in the data folder and in a copy.
const DATABASES: &str = "db";
/// What can be had again by itself, or is of this process's life only; and what was damaged.
const LEFT_OUT: &[&str] = &[DATABASES, "cache", "snapshots", "ingest", "leases", "aside"];

/// What the folder of the states is called.
const STATES: &str = "state";

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Where it is.
    pub folder: PathBuf,
    /// The databases in it, by name.
    pub databases: Vec<String>,
    /// How many files there are, databases included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files and folders of states that this user may not read, and that are not in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<PathBuf>,
}

/// What a guest may close to the node's user: a container writes there as whoever it is.
fn is_a_guest_s(inside: &Path) -> bool {
    inside.starts_with(STATES)
}

/// Copies the data folder to `to`, which must not exist or be empty. It is there whole, or not at all. A node that serves the
/// data folder goes on meanwhile; what it acknowledges after this began may be missing. A state that a task is writing to is
/// copied as it is in between.
///
/// # Errors
/// [`ErrorKind::Usage`]: `to` has something in it, or is inside the data folder. [`ErrorKind::NotFound`]: there is no data folder.
/// [`ErrorKind::Storage`], [`ErrorKind::Exhausted`]: what the disk says.
pub async fn backup(vyr: &Vyr, to: &Path) -> Result<Backup> {
    let home = vyr.config().home.root().to_owned();
    if !home.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no data folder {}", home.display()))
            .hint("name it with --home or VYR_HOME"));
    }
    let place = vacant(&home, to)?;
    // A collection that began waits for this.
    let layout = vyr.layout().clone();
    let _nothing_is_collected = blocking(move || Ok(layout.hold_collection()?)).await?;
    let part = Part::new(&place)?;
    let mut done = Backup { folder: place.clone(), ..Backup::default() };
    let databases = part.path.join(DATABASES);
    make_folder(&databases)?;
    for name in ["tasks", "state", "vyr"] {
        let (from, to) =
            (home.join(DATABASES).join(format!("{name}.sqlite")), databases.join(format!("{name}.sqlite")));
        let _opening = crate::sqlite::settled(&from).await?;
        if let Some(bytes) = db::snapshot(&from, &to).await? {
            done.databases.push(format!("{name}.sqlite"));
            done.files += 1;
            done.bytes += bytes;
        }
    }
    blocking(move || {
        copy_folder(&home, &part.path, &mut done)?;
        part.publish(&place)?;
        Ok(done)
    })
    .await
}

/// The place as an absolute path, if nothing is there.
fn vacant(home: &Path, to: &Path) -> Result<PathBuf> {
    let usage = |why: String| Error::new(ErrorKind::Usage, why).hint("name a folder that isn't there yet");
    let place = std::path::absolute(to).map_err(|e| usage(format!("{} is no path: {e}", to.display())))?;
    let above = place.parent().unwrap_or(&place);
    let above =
        above.canonicalize().map_err(|e| usage(format!("the folder {} can't be written to: {e}", above.display())))?;
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let place = match place.file_name() {
        Some(name) => above.join(name),
        None => return Err(usage(format!("{} is no name of a folder", to.display()))),
    };
    if place.starts_with(&home) {
        return Err(usage(format!("{} is inside the data folder {}", place.display(), home.display())));
    }
    match std::fs::read_dir(&place).map(Iterator::count) {
        Ok(0) => Ok(place),
        Ok(_) => Err(usage(format!("there is something in {} already", place.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(place),
        Err(e) => Err(usage(format!("{} can't be looked into: {e}", place.display()))),
    }
}

/// The copy under way, beside its place; gone unless it is published.
struct Part {
    path: PathBuf,
    published: bool,
}

impl Part {
    fn new(place: &Path) -> Result<Self> {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let path = place.with_file_name(format!(".{name}.{}.part", std::process::id()));
        make_folder(&path)?;
        Ok(Self { path, published: false })
    }

    #[expect(clippy::disallowed_methods, reason = "the disk is asked before the rename and after")]
    fn publish(mut self, place: &Path) -> Result<()> {
        let sync = |path: &Path| File::open(path).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        sync(&self.path).map_err(|e| failed("write to the disk", &self.path, &e))?;
        std::fs::rename(&self.path, place).map_err(|e| failed("rename the copy to", place, &e))?;
        self.published = true;
        let above = place.parent().unwrap_or(place);
        File::open(above).and_then(|folder| folder.sync_all()).map_err(|e| failed("sync the folder", above, &e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("can't {what} {}: {error}", path.display()))
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|e| failed("make the folder", path, &e))
}

fn copy_folder(home: &Path, to: &Path, done: &mut Backup) -> Result<()> {
    let mut waiting = vec![PathBuf::new()];
    let mut folders = Vec::new();
    while let Some(inside) = waiting.pop() {
        let (from, to) = (home.join(&inside), to.join(&inside));
        let entries = match std::fs::read_dir(&from) {
            Ok(entries) => entries,
            // Removed since it was listed, as a task's folder is when the task is forgotten.
            Err(e) if e.kind() == io::ErrorKind::NotFound && inside != Path::new("") => continue,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && is_a_guest_s(&inside) => {
                done.left_out.push(from);
                continue;
            }
            Err(e) => return Err(failed("read the folder", &from, &e)),
        };
        if inside != Path::new("") {
            make_folder(&to)?;
        }
        for entry in entries {
            let entry = entry.map_err(|e| failed("read the folder", &from, &e))?;
            let name = entry.file_name();
            let own = inside == Path::new("");
            let is_lock = Path::new(&name).extension().is_some_and(|extension| extension == "lock");
            if own && (is_lock || LEFT_OUT.iter().any(|out| name == *out)) {
                continue;
            }
            let kind = entry.file_type().map_err(|e| failed("look at", &entry.path(), &e))?;
            let (from, to) = (entry.path(), to.join(&name));
            if kind.is_dir() {
                waiting.push(inside.join(&name));
            } else if kind.is_symlink() {
                match std::fs::read_link(&from) {
                    Ok(target) => copy_link(&target, &to)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied && is_a_guest_s(&inside) => {
                        done.left_out.push(from);
                    }
                    Err(e) => return Err(failed("read the link", &from, &e)),
                }
            } else if kind.is_file() {
                let source = match File::open(&from) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied && is_a_guest_s(&inside) => {
                        done.left_out.push(from);
                        continue;
                    }
                    Err(e) => return Err(failed("read", &from, &e)),
                };
                done.bytes += copy_file(source, &from, &to)?;
                done.files += 1;
            }
            // A socket is of a node's life only.
        }
        folders.push((from, to));
    }
    // When all is in them: a folder may be one that its own user can't write to.
    for (from, to) in folders.iter().rev() {
        let metadata = match std::fs::metadata(from) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("look at", from, &e)),
        };
        let folder = File::open(to).map_err(|e| failed("open", to, &e))?;
        dress(&folder, &metadata).map_err(|e| failed("set the mode of", to, &e))?;
    }
    Ok(())
}

fn copy_file(mut source: File, from: &Path, to: &Path) -> Result<u64> {
    let metadata = source.metadata().map_err(|e| failed("look at", from, &e))?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut target = target.map_err(|e| failed("make the file", to, &e))?;
    let bytes = io::copy(&mut source, &mut target).map_err(|e| failed("write", to, &e))?;
    dress(&target, &metadata).map_err(|e| failed("set the mode of", to, &e))?;
    Ok(bytes)
}

fn copy_link(target: &Path, to: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, to).map_err(|e| failed("make the link", to, &e))
}

/// Owner, mode and times of what was copied; the owner where this user may give it.
fn dress(copy: &File, of: &std::fs::Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(copy, Some(of.uid()), Some(of.gid()))?;
    }
    copy.set_permissions(Permissions::from_mode(of.mode() & 0o7777))?;
    copy.set_times(FileTimes::new().set_modified(of.modified()?))
}
