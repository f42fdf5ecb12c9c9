//! Owns what stands in a state's folder, how much that is, and when it is on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::FileType;

use super::StateError;
use super::inside::{Inside, kind};

/// The folder of one state, or of one task's share in a state of class `task`. Nothing is made by naming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// What guests see.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What was set by key and may not be in the files yet.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// What guests closed in their outbox, before it is sealed.
    #[must_use]
    pub fn sealing(&self) -> PathBuf {
        self.0.join("sealing")
    }

    /// The folders of tasks, for a state of class `task`.
    pub(super) fn tasks(&self) -> PathBuf {
        self.0.join("tasks")
    }

    /// What was pushed, and is kept in case that the repository loses it.
    #[must_use]
    pub fn pushed(&self) -> PathBuf {
        self.0.join("pushed")
    }

    /// How the files looked when they were last sealed.
    pub(super) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// The same, of what is just being sealed.
    pub(super) fn new_index(&self) -> PathBuf {
        self.0.join("index.new")
    }

    /// What is being written, and nothing yet.
    pub(super) fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    pub(super) fn seal_lock(&self) -> PathBuf {
        self.0.join("seal.lock")
    }

    pub(super) fn sync_lock(&self) -> PathBuf {
        self.0.join("sync.lock")
    }

    /// The folder of one task.
    pub(super) fn of_task(&self, task: &str) -> Self {
        Self(self.tasks().join(task))
    }

    pub(super) fn writer_lock(&self) -> PathBuf {
        self.0.join("writer.lock")
    }

    pub(super) fn users_lock(&self) -> PathBuf {
        self.0.join("users.lock")
    }

    fn clean(&self) -> PathBuf {
        self.0.join("clean")
    }

    pub(super) fn make(&self) -> Result<(), StateError> {
        let data = self.data();
        fs::create_dir_all(&data).map_err(StateError::io("create the folder", &data))
    }

    pub(super) fn remove(&self) -> Result<(), StateError> {
        let mut done = fs::remove_dir_all(&self.0);
        if done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            // A container may have closed its folders, to their owner too.
            done = super::inside::open_all(&self.0).and_then(|()| fs::remove_dir_all(&self.0));
        }
        match done {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove the folder", &self.0)(e)),
            _ => Ok(()),
        }
    }

    /// How many bytes its files have and how many files and folders there are, and that it is about to change: what was
    /// noted at the last end of writing counts only once, and only while the machine has not started again.
    pub(super) fn begin_writing(&self) -> Result<Noted, StateError> {
        let path = self.clean();
        let noted = self.noted();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StateError::io("remove", &path)(e)),
            _ => {}
        }
        match noted {
            Some(noted) => Ok(noted),
            None => self.measure().map(|(bytes, entries)| Noted { bytes, entries, content: None }),
        }
    }

    /// What was noted at the last end of writing; `None` while somebody may be writing.
    pub(super) fn noted(&self) -> Option<Noted> {
        let text = fs::read_to_string(self.clean()).ok()?;
        let mut words = text.split_ascii_whitespace();
        let boot = words.next()?;
        let (bytes, entries) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (boot == boot_id()?).then(|| Noted { bytes, entries, content: words.next().map(str::to_owned) })
    }

    /// Notes how much it holds, at the end of writing.
    pub(super) fn end_writing(&self, noted: &Noted) -> Result<(), StateError> {
        let Some(boot) = boot_id() else { return Ok(()) };
        let path = self.clean();
        let Noted { bytes, entries, content } = noted;
        let content = content.as_deref().unwrap_or_default();
        fs::write(&path, format!("{boot} {bytes} {entries} {content}\n")).map_err(StateError::io("write", &path))
    }

    /// Counts what guests see.
    pub(super) fn measure(&self) -> Result<(u64, u64), StateError> {
        let mut sum = (0, 0);
        measure(&self.data(), &mut sum)?;
        Ok(sum)
    }

    /// Counts what waits to be pushed. Always anew: others push it while nobody writes.
    pub(super) fn measure_pending(&self) -> Result<(u64, u64), StateError> {
        let mut sum = (0, 0);
        if self.sealing().exists() {
            measure(&self.sealing(), &mut sum)?;
        }
        Ok(sum)
    }
}

/// Forces a folder's name to disk.
pub(super) fn sync_name(folder: &Path) -> Result<(), StateError> {
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(above).and_then(|above| above.sync_all()).map_err(StateError::io("force to disk", above))
}

/// What a state holds while nobody writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// The digest of its content, where somebody wanted that.
    pub(super) content: Option<String>,
}

fn measure(folder: &Path, sum: &mut (u64, u64)) -> Result<(), StateError> {
    let walked = Inside::open(folder).and_then(|inside| {
        inside.walk(&mut |_, found| {
            sum.1 += 1;
            if kind(found) == FileType::RegularFile {
                sum.0 += found.st_size.unsigned_abs();
            }
            Ok(true)
        })
    });
    walked.map_err(StateError::io("list", folder))
}

/// Which start of the machine this is: what was not forced to disk before another may be gone.
pub(super) fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Forces what was written to the file system to disk. Who asks while that is under way shares the next time with all
/// others that ask: many small writers pay for one.
#[derive(Debug, Clone)]
pub struct Flusher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    turns: Mutex<Turns>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    running: bool,
    begun: u64,
    ended: u64,
    /// Of the last one that ended.
    failed: Option<(io::ErrorKind, String)>,
    /// Something that was written is not on disk and never will be: nothing is said to be from then on. The next start goes by
    /// what is there.
    lost: Option<(io::ErrorKind, String)>,
}

impl Flusher {
    pub(super) fn new(folder: &Path) -> Self {
        Self(Arc::new(Shared { folder: folder.to_owned(), turns: Mutex::default(), turned: Condvar::new() }))
    }

    /// Whether it is the same one, or a clone of it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns when everything that was written before the call is on disk. Blocks.
    ///
    /// # Errors
    /// It is not.
    pub fn flush(&self) -> io::Result<()> {
        let shared = &*self.0;
        let mut turns = shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // The one under way may have passed what was written last.
        let mine = turns.begun + 1;
        while turns.ended < mine {
            if turns.running {
                turns = shared.turned.wait(turns).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            turns.running = true;
            turns.begun += 1;
            let number = turns.begun;
            drop(turns);
            let opened = fs::File::open(&shared.folder);
            let synced = opened.as_ref().map(|folder| rustix::fs::syncfs(folder).map_err(io::Error::from));
            let told = |e: &io::Error| (e.kind(), e.to_string());
            turns = shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.running = false;
            turns.ended = number;
            turns.failed = synced.as_ref().err().map(|e| told(e));
            // The kernel says it once, and another try would succeed without what is lost. It is not known whose that was.
            if let Ok(Err(e)) = &synced {
                turns.lost.get_or_insert_with(|| told(e));
            }
            shared.turned.notify_all();
        }
        match turns.lost.as_ref().or(turns.failed.as_ref()) {
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
            None => Ok(()),
        }
    }
}
