//! Owns power cuts: a run is recorded by its system calls, and its folder is made again as it could be found after any of
//! them, with what had been forced to disk and more or less of what had not.
//!
//! A file's bytes last once the file was forced to disk, its name once its folder was; all of it once the file system was.
//! That is what POSIX promises, and less than most file systems keep. What is not simulated: a disk that lies about having
//! written, bits that change, and several crashes in a row.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file, beside the home folder, that the recorded run writes down in what it may tell others.
pub(crate) const TOLD: &str = "told";
/// The file that says to a test which is to be recorded that it is.
pub(crate) const MARKER: &str = "to-be-recorded";
/// The folder below the working folder that is watched.
pub(crate) const HOME: &str = "home";

/// The calls that change a file system, or force it to disk. Those of them that `Recording::read` doesn't know fail the test.
const CALLS: &str = "trace=open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,\
                     renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,mknod,mknodat,fsync,\
                     fdatasync,sync,syncfs,sync_file_range,copy_file_range,sendfile,splice,io_uring_setup";

#[derive(Debug, Clone)]
enum Call {
    Create(PathBuf),
    Truncate(PathBuf, usize),
    /// At an offset, or at the end.
    Write(PathBuf, Option<usize>, Vec<u8>),
    Folder(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    /// A second name of a file.
    Link(PathBuf, PathBuf),
    /// What was done before the call with this number is forced to disk.
    Sync(PathBuf, usize),
    SyncAll(usize),
    Told(String),
}

/// A file's bytes: those up to its last that isn't zero, and its length. A log that is made long beforehand is zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Bytes {
    begin: Vec<u8>,
    length: usize,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        Self { begin: bytes[..end].to_vec(), length: bytes.len() }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.length = self.length.max(at + bytes.len());
        // Of what comes at the end, zeros need no room.
        let (end, over) = (at + bytes.len(), at + bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
        let kept = if end < self.begin.len() { end } else { over };
        if end >= self.begin.len() {
            self.begin.truncate(kept);
        }
        if kept > at {
            self.begin.resize(self.begin.len().max(kept), 0);
            self.begin[at..kept].copy_from_slice(&bytes[..kept - at]);
        }
        self.trim();
    }

    fn cut(&mut self, length: usize) {
        self.begin.truncate(length);
        self.length = length;
        self.trim();
    }

    fn trim(&mut self) {
        let end = self.begin.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        self.begin.truncate(end);
    }
}

#[derive(Debug, Clone)]
enum What {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A change of a file's bytes that isn't on disk, with the number of its call.
#[derive(Debug, Clone)]
struct Change(usize, What);

#[derive(Debug, Clone, Default)]
struct File {
    now: Bytes,
    durable: Bytes,
    pending: Vec<Change>,
}

impl File {
    fn apply(to: &mut Bytes, change: &What, torn: bool) {
        match change {
            What::Write(at, bytes) => to.write(*at, if torn { &bytes[..bytes.len().div_ceil(2)] } else { bytes }),
            What::Length(length) => to.cut(*length),
        }
    }

    fn change(&mut self, number: usize, what: What) {
        Self::apply(&mut self.now, &what, false);
        self.pending.push(Change(number, what));
    }

    fn sync(&mut self, began: usize) {
        let later = self.pending.iter().position(|c| c.0 >= began).unwrap_or(self.pending.len());
        for change in self.pending.drain(..later) {
            Self::apply(&mut self.durable, &change.1, false);
        }
    }
}

/// How much of what was not forced to disk is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it: the process was killed, and the machine went on.
    Everything,
    /// Nothing.
    Nothing,
    /// All names, and of the bytes only what was forced to disk.
    Names,
    /// The names that were forced to disk, with all bytes.
    Bytes,
    /// All names, and the first half of the writes to each file, the last of them torn.
    HalfOfTheWrites,
    /// All names, and of the writes to each file only the last.
    LastWrites,
}

const LEFT: [Left; 6] =
    [Left::Everything, Left::Nothing, Left::Names, Left::Bytes, Left::HalfOfTheWrites, Left::LastWrites];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

/// The folder as it is now, and as it would be after a power cut.
#[derive(Debug, Default)]
struct Disk {
    files: Vec<File>,
    now: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Names that came or went and aren't on disk.
    pending: Vec<(usize, PathBuf, Option<Node>)>,
}

impl Disk {
    fn name(&mut self, number: usize, path: PathBuf, node: Option<Node>) {
        match node {
            Some(node) => drop(self.now.insert(path.clone(), node)),
            None => drop(self.now.remove(&path)),
        }
        self.pending.push((number, path, node));
    }

    fn file(&mut self, path: &Path) -> &mut File {
        match self.now.get(path) {
            Some(Node::File(at)) => &mut self.files[*at],
            other => panic!("{} is {other:?}, and no file", path.display()),
        }
    }

    fn sync_names(&mut self, began: usize, is_meant: impl Fn(&Path) -> bool) {
        let mut left = Vec::new();
        for (number, path, node) in std::mem::take(&mut self.pending) {
            if number >= began || !is_meant(&path) {
                left.push((number, path, node));
                continue;
            }
            match node {
                Some(node) => drop(self.durable.insert(path, node)),
                None => drop(self.durable.remove(&path)),
            }
        }
        self.pending = left;
    }

    fn take(&mut self, number: usize, call: &Call) {
        match call {
            Call::Create(path) => {
                self.files.push(File::default());
                self.name(number, path.clone(), Some(Node::File(self.files.len() - 1)));
            }
            Call::Truncate(path, length) => {
                self.file(path).change(number, What::Length(*length));
            }
            Call::Write(path, at, bytes) => {
                let file = self.file(path);
                let at = at.unwrap_or(file.now.length);
                file.change(number, What::Write(at, bytes.clone()));
            }
            Call::Folder(path) => self.name(number, path.clone(), Some(Node::Folder)),
            Call::Remove(path) => self.name(number, path.clone(), None),
            Call::Rename(from, to) => {
                let node = self.now.get(from).copied();
                assert!(matches!(node, Some(Node::File(_))), "{} is {node:?}, and no file", from.display());
                self.name(number, to.clone(), node);
                self.name(number, from.clone(), None);
            }
            Call::Link(from, to) => {
                let node = self.now.get(from).copied();
                assert!(matches!(node, Some(Node::File(_))), "{} is {node:?}, and no file", from.display());
                self.name(number, to.clone(), node);
            }
            Call::Sync(path, began) => match self.now.get(path).copied() {
                Some(Node::File(at)) => self.files[at].sync(*began),
                _ => self.sync_names(*began, |changed| changed.parent() == Some(path)),
            },
            Call::SyncAll(began) => {
                self.files.iter_mut().for_each(|file| file.sync(*began));
                self.sync_names(*began, |_| true);
            }
            Call::Told(_) => {}
        }
    }

    fn content(file: &File, left: Left) -> Bytes {
        let mut content = file.durable.clone();
        match left {
            Left::Everything | Left::Bytes => return file.now.clone(),
            Left::Nothing | Left::Names => {}
            Left::HalfOfTheWrites => {
                let half = file.pending.len().div_ceil(2);
                for (at, change) in (1..).zip(file.pending.iter().take(half)) {
                    File::apply(&mut content, &change.1, at == half);
                }
            }
            Left::LastWrites => file.pending.last().into_iter().for_each(|c| File::apply(&mut content, &c.1, false)),
        }
        content
    }

    /// What would be found, each name with its bytes; a folder has none.
    fn found(&self, left: Left) -> BTreeMap<&Path, Option<Bytes>> {
        let names = if matches!(left, Left::Nothing | Left::Bytes) { &self.durable } else { &self.now };
        let mut found = BTreeMap::new();
        for (path, node) in names {
            // What lies in a folder that isn't there can't be found either.
            if !path.parent().is_some_and(|parent| parent.as_os_str().is_empty() || found.contains_key(parent)) {
                continue;
            }
            let content = match node {
                Node::Folder => None,
                Node::File(at) => Some(Self::content(&self.files[*at], left)),
            };
            found.insert(path.as_path(), content);
        }
        found
    }
}

fn is_shared_memory(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-shm")
}

fn write_out(found: &BTreeMap<&Path, Option<Bytes>>, to: &Path) {
    for (path, content) in found {
        let path = to.join(path);
        match content {
            None => fs::create_dir(&path).unwrap(),
            Some(content) => {
                fs::write(&path, &content.begin).unwrap();
                fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(content.length as u64).unwrap();
            }
        }
    }
}

/// What a run did to its folder.
pub(crate) struct Recording {
    before: Vec<(PathBuf, Option<Bytes>)>,
    calls: Vec<Call>,
}

fn listed(root: &Path) -> Vec<(PathBuf, Option<Bytes>)> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let content = if path.is_dir() { None } else { Some(Bytes::of(&fs::read(&path).unwrap())) };
            if content.is_none() {
                todo.push(path.clone());
            }
            found.push((path.strip_prefix(root).unwrap().to_owned(), content));
        }
    }
    found.sort();
    found
}

impl Recording {
    /// Records the ignored test `test`, which finds [`MARKER`] in its working folder and works in [`HOME`] below that.
    pub(crate) fn of(test: &str) -> Self {
        // Calls of two threads that overlap are written down in an order that may not have been theirs: not worth a thing.
        let mut said = String::new();
        for _ in 0..8 {
            match Self::once(test) {
                Ok(recording) => return recording,
                Err(why) => said = why,
            }
        }
        panic!("{said}");
    }

    fn once(test: &str) -> Result<Self, String> {
        let scratch = crate::fuzz::scratch();
        let work = scratch.path().canonicalize().unwrap();
        let home = work.join(HOME);
        fs::create_dir(&home).unwrap();
        fs::write(work.join(MARKER), b"").unwrap();
        let before = listed(&home);
        let log = work.join("strace.log");
        let status = Command::new(super::tool("strace"))
            .args(["-f", "-qq", "-y", "-xx", "-s", "2000000", "-e", "signal=none", "-e", CALLS, "-o"])
            .arg(&log)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--test-threads", "1"])
            .current_dir(&work)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{test} failed while it was recorded");
        let recording = Self { before, calls: read(&fs::read_to_string(&log).unwrap(), &work) };
        // The record is worth something if what comes of it is what the run left.
        let mut disk = recording.disk();
        for (number, call) in recording.calls.iter().enumerate() {
            disk.take(number, call);
        }
        let made: Vec<_> = disk
            .found(Left::Everything)
            .into_iter()
            .map(|(p, c)| (p.to_owned(), c))
            .filter(|(p, _)| !is_shared_memory(p))
            .collect();
        let left: Vec<_> = listed(&home).into_iter().filter(|(path, _)| !is_shared_memory(path)).collect();
        for (one, other) in made.iter().zip(&left) {
            if one != other {
                return Err(format!("the record of {} is not what was left", other.0.display()));
            }
        }
        if made.len() != left.len() {
            return Err(format!("by the record there are {} files, and {} were left", made.len(), left.len()));
        }
        Ok(recording)
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::default();
        for (path, content) in &self.before {
            let node = match content {
                None => Node::Folder,
                Some(content) => {
                    disk.files.push(File { now: content.clone(), durable: content.clone(), pending: Vec::new() });
                    Node::File(disk.files.len() - 1)
                }
            };
            disk.now.insert(path.clone(), node);
            disk.durable.insert(path.clone(), node);
        }
        disk
    }

    /// Cuts the power after each call, or after every `each`th, in each way that finds something else, and has `look` look at
    /// the folder and at what had been told by then. Returns how many times that was.
    pub(crate) fn cut(&self, each: usize, mut look: impl FnMut(&Path, &[String])) -> usize {
        let (mut disk, mut told, mut seen, mut cuts) = (self.disk(), Vec::new(), HashSet::new(), 0);
        for (number, call) in self.calls.iter().enumerate() {
            disk.take(number, call);
            if let Call::Told(line) = call {
                told.push(line.clone());
            }
            // What was told just now is where a loss would show.
            if !number.is_multiple_of(each) && !matches!(call, Call::Told(_)) {
                continue;
            }
            for left in LEFT {
                let mut found = disk.found(left);
                // Shared memory is nobody's after a crash.
                found.retain(|path, _| !is_shared_memory(path));
                let mut print = std::hash::DefaultHasher::new();
                std::hash::Hash::hash(&(&found, told.len()), &mut print);
                if !seen.insert(std::hash::Hasher::finish(&print)) {
                    continue;
                }
                let scratch = crate::fuzz::scratch();
                let home = scratch.path().join(HOME);
                fs::create_dir(&home).unwrap();
                write_out(&found, &home);
                cuts += 1;
                let shown = Shown { number, of: self.calls.len(), call, left };
                look(&home, &told);
                std::mem::forget(shown);
            }
        }
        cuts
    }
}

/// Says where the power was cut when the look fails.
struct Shown<'a> {
    number: usize,
    of: usize,
    call: &'a Call,
    left: Left,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let call: String = format!("{:?}", self.call).chars().take(300).collect();
        eprintln!("power was cut after call {} of {}, left: {:?}: {call}", self.number, self.of, self.left);
    }
}

/// Reads what strace wrote. Calls that are interrupted by another thread's are taken where they end.
fn read(log: &str, work: &Path) -> Vec<Call> {
    let home = work.join(HOME);
    let mut reader =
        Reader { home, told: work.join(TOLD), work: work.to_owned(), calls: Vec::new(), names: HashSet::new() };
    let mut begun: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    for line in log.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(process, (begin.to_owned(), reader.calls.len()));
        } else if rest.starts_with("<... ") {
            let end = rest.split_once(" resumed>").map_or("", |(_, end)| end);
            if let Some((begin, number)) = begun.remove(process) {
                reader.take(&format!("{begin}{end}"), number);
            }
        } else {
            let number = reader.calls.len();
            reader.take(rest, number);
        }
    }
    reader.calls
}

struct Reader {
    home: PathBuf,
    told: PathBuf,
    work: PathBuf,
    calls: Vec<Call>,
    /// The files and folders there are.
    names: HashSet<PathBuf>,
}

/// What stands in quotes or angle brackets: bytes, each as `\x00`.
fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace("\\x", ""))
        .unwrap_or_else(|e| panic!("{e}: {}", text.chars().take(80).collect::<String>()))
}

fn path(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(bytes(text)).into()
}

/// An argument: of a path its bytes, of a descriptor the file's path, else as it is.
#[derive(Debug)]
enum Argument {
    Text(Vec<u8>),
    Open(PathBuf, bool),
    Other(String),
}

/// The arguments of a call. Nothing within quotes or brackets has a comma, since all of it is in hexadecimal digits.
fn arguments(text: &str) -> Vec<Argument> {
    text.split(", ")
        .map(|argument| {
            let argument = argument.trim();
            if let Some(quoted) = argument.strip_prefix('"') {
                assert!(quoted.ends_with('"'), "a piece was cut");
                return Argument::Text(bytes(quoted.trim_end_matches('"')));
            }
            match argument.split_once('<') {
                Some((_, opened)) if opened.starts_with('\\') => {
                    let (name, after) = opened.split_once('>').unwrap_or((opened, ""));
                    Argument::Open(path(name), after.contains("deleted"))
                }
                _ => Argument::Other(argument.to_owned()),
            }
        })
        .collect()
}

impl Reader {
    /// Where a path is below the home folder.
    fn inside(&self, folder: Option<&Path>, name: &Path) -> Option<PathBuf> {
        let full = folder.unwrap_or(&self.work).join(name);
        // Paths are written with dots here and there.
        let plain: PathBuf = full.components().filter(|c| !matches!(c, std::path::Component::CurDir)).collect();
        plain.strip_prefix(&self.home).ok().map(Path::to_owned)
    }

    fn take(&mut self, line: &str, began: usize) {
        let Some((name, rest)) = line.split_once('(') else { return };
        let Some((inner, result)) = rest.rsplit_once(") ").or_else(|| rest.rsplit_once(')')) else { return };
        let Some(result) = result.trim().strip_prefix("= ") else { return };
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let arguments = arguments(inner);
        let mut texts = arguments.iter().filter_map(|a| match a {
            Argument::Text(bytes) => {
                use std::os::unix::ffi::OsStrExt as _;
                Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
            }
            _ => None,
        });
        let mut opened = arguments.iter().filter_map(|a| match a {
            Argument::Open(path, gone) => Some((path.as_path(), *gone)),
            _ => None,
        });
        let number = |at: usize| match arguments.get(at) {
            Some(Argument::Other(text)) => text.parse::<usize>().ok(),
            _ => None,
        };
        match name {
            "open" | "openat" | "creat" | "openat2" => {
                let folder = opened.next().map(|(path, _)| path.to_owned());
                let Some(path) = texts.next().and_then(|name| self.inside(folder.as_deref(), &name)) else { return };
                assert!(name != "openat2" || !inner.contains("O_CREAT"), "not simulated: {line}");
                if !self.names.contains(&path) && inner.contains("O_CREAT") && !path.as_os_str().is_empty() {
                    self.names.insert(path.clone());
                    self.calls.push(Call::Create(path));
                } else if inner.contains("O_TRUNC") {
                    self.calls.push(Call::Truncate(path, 0));
                }
            }
            "write" | "pwrite64" => {
                let Some((file, gone)) = opened.next() else { return };
                let Some(Argument::Text(bytes)) = arguments.get(1) else { return };
                let length: usize = result.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
                assert_eq!(bytes.len().min(length), length, "a write was cut in the record");
                if file == self.told {
                    let line = String::from_utf8_lossy(bytes).trim_end().to_owned();
                    self.calls.push(Call::Told(line));
                } else if let Some(path) = self.inside(None, file).filter(|_| !gone) {
                    let at = if name == "write" { None } else { number(3) };
                    self.calls.push(Call::Write(path, at, bytes[..length].to_vec()));
                }
            }
            "ftruncate" => {
                let Some((file, gone)) = opened.next() else { return };
                if let (Some(path), Some(length)) = (self.inside(None, file).filter(|_| !gone), number(1)) {
                    self.calls.push(Call::Truncate(path, length));
                }
            }
            "mkdir" | "mkdirat" => {
                let folder = opened.next().map(|(path, _)| path.to_owned());
                let Some(path) = texts.next().and_then(|name| self.inside(folder.as_deref(), &name)) else { return };
                self.names.insert(path.clone());
                self.calls.push(Call::Folder(path));
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let folder = opened.next().map(|(path, _)| path.to_owned());
                let Some(path) = texts.next().and_then(|name| self.inside(folder.as_deref(), &name)) else { return };
                self.names.remove(&path);
                self.calls.push(Call::Remove(path));
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let relative = |at: usize| match arguments.get(at) {
                    Some(Argument::Open(path, _)) => Some(path.clone()),
                    _ => None,
                };
                let (from_folder, to_folder) =
                    if matches!(name, "rename" | "link") { (None, None) } else { (relative(0), relative(2)) };
                let from = texts.next().and_then(|name| self.inside(from_folder.as_deref(), &name));
                let to = texts.next().and_then(|name| self.inside(to_folder.as_deref(), &name));
                let (Some(from), Some(to)) = (from, to) else { return };
                self.names.insert(to.clone());
                if name.starts_with("link") {
                    self.calls.push(Call::Link(from, to));
                } else {
                    self.names.remove(&from);
                    self.calls.push(Call::Rename(from, to));
                }
            }
            "fsync" | "fdatasync" => {
                let Some((file, gone)) = opened.next() else { return };
                if let Some(path) = self.inside(None, file).filter(|_| !gone) {
                    self.calls.push(Call::Sync(path, began));
                }
            }
            "sync" | "syncfs" => self.calls.push(Call::SyncAll(began)),
            _ => {
                let there = opened.any(|(path, _)| self.inside(None, path).is_some())
                    || texts.any(|name| self.inside(None, &name).is_some());
                assert!(!there, "not simulated: {}", line.chars().take(200).collect::<String>());
            }
        }
    }
}
