//! Owns one task's output: captured with time stamps, bounded, read live by any number of readers and after the end.
//!
//! Output is a sequence of [`frame`]s. A short output stays in memory until the task ends, and then goes into its row; a
//! longer one, or that of a task that runs on, goes to a file, so that what a guest wrote survives the node. What was still
//! in memory when the node was killed is lost, also to readers that were given it: [`Place`] keeps them on a true offset.

mod frame;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use vyr_proto::v0::{LogEntry, LogStream, LogSummary};

use self::frame::{FRAME, HEAD, Place, frames, piece};

use crate::engine::StdoutStream;
use crate::oci::Hasher;
use crate::receipt::{OutputFacts, StreamFacts};
use crate::task::micros;

/// What is kept in memory before it goes to the file, in bytes.
const MEMORY: usize = 32 << 10;
/// What an output may take on disk beyond twice its limit, in bytes.
const SLACK: u64 = 64 << 10;
/// Writes of one stream within this time, in microseconds, become one frame where nobody has read the first yet.
const TOGETHER_US: i64 = 1000;
/// What one read returns at most, in bytes: more than the longest frame.
const READ: usize = 64 << 10;

/// One task's output.
#[derive(Debug)]
pub struct TaskLog {
    path: PathBuf,
    limit: u64,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The frames that are not in the file yet.
    memory: Vec<u8>,
    /// How many bytes of frames are in the file.
    in_file: u64,
    file: Option<File>,
    /// Since when there is something in memory.
    since: Option<Instant>,
    /// Where the last frame begins, if it may still grow: offset, stream, time.
    last: Option<(u64, u8, i64)>,
    /// The highest offset that a reader was given.
    read: u64,
    attempt: u8,
    /// Where the output of each attempt after the first begins.
    begins: Vec<(u8, u64)>,
    summary: LogSummary,
    sealed: bool,
    ended: bool,
    failed: bool,
    /// Of all that this attempt wrote, where a receipt is wanted.
    sums: Option<[Sum; 2]>,
}

/// What one stream had.
#[derive(Debug, Clone)]
struct Sum {
    hasher: Hasher,
    bytes: u64,
}

impl Sum {
    fn pair() -> [Self; 2] {
        [Self { hasher: Hasher::sha256(), bytes: 0 }, Self { hasher: Hasher::sha256(), bytes: 0 }]
    }

    fn facts(self) -> StreamFacts {
        StreamFacts { digest: self.hasher.finish().to_string(), bytes: self.bytes }
    }
}

/// Some of an output.
#[derive(Debug, Default)]
pub struct Piece {
    /// The writes.
    pub entries: Vec<LogEntry>,
    /// Where to go on.
    pub next: u64,
    /// Nothing comes after this.
    pub last: bool,
    /// What was dropped, in bytes.
    pub dropped: u64,
}

impl TaskLog {
    /// An empty one that keeps up to `limit` bytes, and goes to `path` if it has to.
    pub(super) fn new(path: PathBuf, limit: u64) -> Self {
        Self { path, limit, inner: Mutex::new(Inner { attempt: 1, ..Inner::default() }), changed: Notify::new() }
    }

    /// Goes on with what an earlier process left in the file at `path`, if it did. A frame that was cut by its end goes.
    ///
    /// # Errors
    /// The file can't be read or cut.
    pub(super) fn resume(path: PathBuf, limit: u64) -> io::Result<Self> {
        let log = Self::new(path, limit);
        let mut file = match OpenOptions::new().read(true).write(true).open(&log.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(log),
            Err(e) => return Err(e),
        };
        let mut inner = log.lock();
        let length = file.metadata()?.len();
        let mut at = 0;
        loop {
            let piece = from_file(&file, at, length)?;
            let before = at;
            for frame in frames(&piece) {
                inner.count(frame.stream, frame.data.len());
                inner.begin(frame.attempt, at);
                at += (HEAD + frame.data.len()) as u64;
            }
            if at == before {
                break;
            }
        }
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        inner.in_file = at;
        inner.file = Some(file);
        drop(inner);
        Ok(log)
    }

    /// Sums up what is written from now on, for a receipt.
    pub(super) fn sum_up(&self) {
        self.lock().sums = Some(Sum::pair());
    }

    /// What the last attempt wrote; `None` where it isn't summed up.
    pub(super) fn sums(&self) -> Option<OutputFacts> {
        let [stdout, stderr] = self.lock().sums.clone()?;
        Some(OutputFacts { stdout: stdout.facts(), stderr: stderr.facts() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks what comes as another attempt's.
    pub(super) fn attempt(&self, attempt: u32) {
        let mut inner = self.lock();
        let at = inner.end();
        inner.begin(u8::try_from(attempt).unwrap_or(u8::MAX), at);
        inner.sums = inner.sums.as_ref().map(|_| Sum::pair());
        inner.last = None;
    }

    fn add(&self, stream: u8, mut bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = micros(SystemTime::now());
        let mut inner = self.lock();
        if let Some([stdout, stderr]) = &mut inner.sums {
            let sum = if stream == 1 { stdout } else { stderr };
            sum.hasher.update(bytes);
            sum.bytes += bytes.len() as u64;
        }
        // Each piece has a head as well: who writes byte by byte, by turns to both streams, gets no more of the disk by that.
        let on_disk = (2 * self.limit + SLACK).saturating_sub(inner.end() + HEAD as u64);
        let room = usize::try_from(self.limit.saturating_sub(inner.kept()).min(on_disk)).unwrap_or(usize::MAX);
        if bytes.len() > room || inner.failed {
            let kept = if inner.failed { 0 } else { room };
            inner.summary.dropped_bytes += (bytes.len() - kept) as u64;
            bytes = bytes.get(..kept).unwrap_or_default();
        }
        for part in bytes.chunks(FRAME) {
            inner.append(stream, now, part);
            if inner.memory.len() >= MEMORY {
                inner.spill(&self.path);
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Writes what is in memory to the file, so that it survives this process.
    pub(super) fn spill(&self) {
        let mut inner = self.lock();
        if !inner.memory.is_empty() && !inner.sealed {
            inner.spill(&self.path);
        }
    }

    /// As [`TaskLog::spill`], if something has been in memory for longer than `age`.
    pub(super) fn spill_if_older(&self, age: Duration) {
        let mut inner = self.lock();
        if !inner.memory.is_empty() && !inner.sealed && inner.since.is_some_and(|since| since.elapsed() >= age) {
            inner.spill(&self.path);
        }
    }

    /// Whether some of it is in a file: then [`TaskLog::seal`] blocks.
    pub(super) fn is_in_file(&self) -> bool {
        self.lock().in_file > 0
    }

    /// Nothing more comes. What is returned belongs into the task's row; `None` if it is in the file, which is synced.
    pub(super) fn seal(&self) -> Option<Bytes> {
        let mut inner = self.lock();
        inner.sealed = true;
        if inner.in_file == 0 {
            Some(Bytes::copy_from_slice(&inner.memory))
        } else {
            inner.spill(&self.path);
            let folder = self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
            if let Some(file) = &inner.file
                && let Err(e) = file.sync_data().and(folder)
            {
                tracing::warn!(path = %self.path.display(), error = %e, "a task's output may not survive a power cut");
            }
            None
        }
    }

    /// The task's end is on disk: readers may be told that this is all.
    pub(super) fn close(&self) {
        self.lock().ended = true;
        self.changed.notify_waiters();
    }

    /// What is kept so far.
    pub(super) fn summary(&self) -> LogSummary {
        self.lock().summary
    }

    /// What stands at `offset`. Reads the file where it has to: call it where blocking is allowed.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&self, offset: u64, only: LogStream) -> io::Result<Piece> {
        let mut inner = self.lock();
        let end = inner.end();
        let place = Place::from_offset(offset);
        let later = inner.begins.iter().find(|(attempt, _)| *attempt > place.attempt).map_or(end, |(_, at)| *at);
        let at = place.at.min(later);
        let bytes = if at >= inner.in_file {
            let from = usize::try_from(at - inner.in_file).unwrap_or(usize::MAX);
            let rest = inner.memory.get(from..).unwrap_or_default();
            rest.get(..rest.len().min(READ)).unwrap_or_default().to_vec()
        } else {
            match &inner.file {
                Some(file) => from_file(file, at, inner.in_file)?,
                None => Vec::new(),
            }
        };
        let from = at;
        let (entries, at) = piece(&bytes, at, only);
        inner.read = inner.read.max(at);
        let next = Place { attempt: inner.attempt, at }.offset();
        // From where no piece begins, as an offset that nobody gave may say, nothing is found and nothing follows.
        let last = inner.ended && (at >= end || at == from);
        Ok(Piece { entries, next, last, dropped: inner.summary.dropped_bytes })
    }

    /// Waits for more than there was when this was called.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// What comes at `at` and after is `attempt`'s.
    fn begin(&mut self, attempt: u8, at: u64) {
        if attempt > self.attempt {
            self.attempt = attempt;
            self.begins.push((attempt, at));
        }
    }

    fn kept(&self) -> u64 {
        self.summary.stdout_bytes + self.summary.stderr_bytes
    }

    fn count(&mut self, stream: u8, bytes: usize) {
        if stream == 1 {
            self.summary.stdout_bytes += bytes as u64;
        } else {
            self.summary.stderr_bytes += bytes as u64;
        }
    }

    fn append(&mut self, stream: u8, now: i64, bytes: &[u8]) {
        self.count(stream, bytes.len());
        let end = self.end();
        if let Some((at, same, when)) = self.last
            && same == stream
            && at >= self.in_file
            && at >= self.read
            && (0..TOGETHER_US).contains(&(now - when))
            && let Ok(from) = usize::try_from(at - self.in_file)
            && self.memory.len() - from + bytes.len() <= HEAD + FRAME
            && let Ok(length) = u32::try_from(self.memory.len() - from - HEAD + bytes.len())
            && let Some(field) = self.memory.get_mut(from + 2..from + 6)
        {
            field.copy_from_slice(&length.to_le_bytes());
            self.memory.extend_from_slice(bytes);
            return;
        }
        if self.memory.is_empty() {
            self.since = Some(Instant::now());
        }
        self.last = Some((end, stream, now));
        self.memory.extend_from_slice(&[stream, self.attempt]);
        self.memory.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
        self.memory.extend_from_slice(&now.to_le_bytes());
        self.memory.extend_from_slice(bytes);
    }

    fn spill(&mut self, path: &Path) {
        let done = match &mut self.file {
            Some(file) => file.write_all(&self.memory),
            none => create(path).and_then(|mut file| {
                let done = file.write_all(&self.memory);
                *none = Some(file);
                done
            }),
        };
        if let Err(e) = done {
            // The disk is full, as a rule. The guest goes on; what can't be kept is counted as dropped.
            tracing::warn!(path = %path.display(), error = %e, "a task's output can't be kept");
            self.failed = true;
            for frame in frames(&std::mem::take(&mut self.memory)) {
                self.summary.dropped_bytes += frame.data.len() as u64;
                let kept =
                    if frame.stream == 1 { &mut self.summary.stdout_bytes } else { &mut self.summary.stderr_bytes };
                *kept = kept.saturating_sub(frame.data.len() as u64);
            }
            if let Some(file) = &mut self.file {
                // A frame that was written in part would hide those after it.
                let _ = file.set_len(self.in_file);
                let _ = file.seek(SeekFrom::Start(self.in_file));
            }
        }
        self.in_file += self.memory.len() as u64;
        self.memory.clear();
        self.last = None;
    }
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn from_file(file: &File, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(READ);
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        match file.read_at(bytes.get_mut(got..).unwrap_or_default(), offset + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// An ended task's output: in its row, or in a file.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    /// What the row holds.
    pub(super) row: Option<&'a [u8]>,
    /// Where the file is, for one whose row holds none.
    pub(super) path: &'a Path,
    /// How many attempts there were.
    pub(super) attempts: u32,
    /// What was dropped, in bytes.
    pub(super) dropped: u64,
}

impl Ended<'_> {
    /// What stands at `offset`. Reads the file where it has to: call it where blocking is allowed.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn read(&self, offset: u64, only: LogStream) -> io::Result<Piece> {
        let place = Place::from_offset(offset);
        let attempt = u8::try_from(self.attempts).unwrap_or(u8::MAX);
        let is_later = |frame: &frame::Frame<'_>| frame.attempt > place.attempt;
        let (bytes, at, end) = match self.row {
            Some(row) => {
                let end = row.len() as u64;
                let later = if place.attempt < attempt { first(row, is_later).0 } else { end };
                let at = place.at.min(later);
                let rest = usize::try_from(at).ok().and_then(|from| row.get(from..)).unwrap_or_default();
                (rest.get(..rest.len().min(READ)).unwrap_or_default().to_vec(), at, end)
            }
            None => match File::open(self.path) {
                Ok(file) => {
                    let end = file.metadata()?.len();
                    let mut at = place.at.min(end);
                    // Only once for a reader: what it is given next is an offset of the last attempt.
                    if place.attempt < attempt && at > 0 {
                        at = at.min(first_in_file(&file, at, is_later)?);
                    }
                    (from_file(&file, at, end)?, at, end)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), 0, 0),
                Err(e) => return Err(e),
            },
        };
        let (entries, next) = piece(&bytes, at, only);
        // Nothing whole is left where a frame was cut.
        let last = next >= end || next == at;
        Ok(Piece { entries, next: Place { attempt, at: next }.offset(), last, dropped: self.dropped })
    }
}

/// Where the first frame for which `is` holds begins, or else the whole ones end; and whether it was found.
fn first(bytes: &[u8], is: impl Fn(&frame::Frame<'_>) -> bool) -> (u64, bool) {
    let mut at = 0;
    for frame in frames(bytes) {
        if is(&frame) {
            return (at, true);
        }
        at += (HEAD + frame.data.len()) as u64;
    }
    (at, false)
}

/// As [`first`], of what is before `end` in `file`.
fn first_in_file(file: &File, end: u64, is: impl Fn(&frame::Frame<'_>) -> bool) -> io::Result<u64> {
    let mut at = 0;
    loop {
        let (more, found) = first(&from_file(file, at, end)?, &is);
        at += more;
        if found || more == 0 {
            // What is left before `end` is the rest of a frame that was cut, whose place is another's now.
            return Ok(at);
        }
    }
}

/// One of a task's outputs, as the guest writes to it.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    log: Arc<TaskLog>,
    stream: u8,
}

impl Capture {
    pub(super) fn stdout(log: &Arc<TaskLog>) -> Self {
        Self { log: Arc::clone(log), stream: 1 }
    }

    pub(super) fn stderr(log: &Arc<TaskLog>) -> Self {
        Self { log: Arc::clone(log), stream: 2 }
    }
}

impl crate::engine::IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn p2_stream(&self) -> Box<dyn crate::engine::OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl crate::engine::OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> crate::engine::StreamResult<()> {
        self.log.add(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> crate::engine::StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> crate::engine::StreamResult<usize> {
        Ok(FRAME)
    }
}

#[crate::engine::async_trait]
impl crate::engine::Pollable for Capture {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Capture {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.log.add(self.stream, bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limit: u64) -> (tempfile::TempDir, Arc<TaskLog>) {
        let folder = tempfile::tempdir().unwrap();
        let log = TaskLog::new(folder.path().join("ab/task.log"), limit);
        (folder, Arc::new(log))
    }

    fn ended<'a>(row: Option<&'a [u8]>, path: &'a Path, attempts: u32) -> Ended<'a> {
        Ended { row, path, attempts, dropped: 0 }
    }

    fn text(pieces: &[Piece], stream: LogStream) -> Vec<u8> {
        let entries = pieces.iter().flat_map(|p| &p.entries);
        entries.filter(|e| e.stream() == stream).flat_map(|e| e.data.to_vec()).collect()
    }

    fn all(log: &TaskLog) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        loop {
            let piece = log.read(offset, LogStream::Unspecified).unwrap();
            let done = piece.next == offset || piece.last;
            offset = piece.next;
            pieces.push(piece);
            if done {
                return pieces;
            }
        }
    }

    #[test]
    fn a_short_output_stays_in_memory_and_in_order() {
        let (folder, log) = log(1000);
        log.add(1, b"one");
        log.add(2, b"two");
        log.add(1, b"three");
        let read = all(&log);
        let order: Vec<_> = read[0].entries.iter().map(|e| (e.stream(), e.data.to_vec())).collect();
        assert_eq!(
            order,
            [
                (LogStream::Stdout, b"one".to_vec()),
                (LogStream::Stderr, b"two".to_vec()),
                (LogStream::Stdout, b"three".to_vec())
            ]
        );
        let kept = log.seal().expect("it is short");
        assert!(!folder.path().join("ab").exists());
        let after = ended(Some(&kept), Path::new("/nowhere"), 1).read(0, LogStream::Stderr).unwrap();
        assert_eq!((after.entries.len(), after.last), (1, true));
    }

    #[test]
    fn the_cut_is_at_the_byte_and_counted() {
        let (_folder, log) = log(10);
        log.add(1, b"12345678");
        log.add(2, b"abcdef");
        log.add(1, b"more");
        assert_eq!(text(&all(&log), LogStream::Stdout), b"12345678");
        assert_eq!(text(&all(&log), LogStream::Stderr), b"ab");
        let summary = log.summary();
        assert_eq!((summary.stdout_bytes, summary.stderr_bytes, summary.dropped_bytes), (8, 2, 8));
    }

    #[test]
    fn who_writes_byte_by_byte_to_both_streams_gets_no_more_of_the_disk() {
        const LIMIT: u64 = 100_000;
        let (folder, log) = log(LIMIT);
        for _ in 0..LIMIT {
            log.add(1, b"o");
            log.add(2, b"e");
        }
        assert!(log.seal().is_none());
        let on_disk = std::fs::metadata(folder.path().join("ab/task.log")).unwrap().len();
        assert!(on_disk <= 2 * LIMIT + SLACK, "{on_disk}");
        let told = log.summary();
        assert_eq!(told.stdout_bytes + told.stderr_bytes + told.dropped_bytes, 2 * LIMIT);
        assert!(told.stdout_bytes + told.stderr_bytes > 10_000, "{told:?}");
    }

    #[test]
    fn from_within_a_piece_nothing_is_found_and_that_is_the_end() {
        let (_folder, log) = log(1000);
        log.add(1, b"a piece");
        let early = log.read(3, LogStream::Unspecified).unwrap();
        assert!(!early.last, "something may follow");
        log.close();
        let read = log.read(3, LogStream::Unspecified).unwrap();
        assert!(read.last && read.entries.is_empty());
    }

    #[test]
    fn a_long_output_goes_to_a_file_and_nothing_is_lost() {
        let (folder, log) = log(10 << 20);
        let written: Vec<u8> = (0..2_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for (i, part) in written.chunks(7001).enumerate() {
            log.add(1, part);
            if i % 50 == 0 {
                let _ = log.read(0, LogStream::Unspecified).unwrap();
            }
        }
        assert_eq!(text(&all(&log), LogStream::Stdout), written);
        assert!(log.seal().is_none());
        assert_eq!(text(&all(&log), LogStream::Stdout), written);
        let path = folder.path().join("ab/task.log");
        // Another process goes on where this one was cut in the middle of a frame.
        let length = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        let resumed = TaskLog::resume(path, 10 << 20).unwrap();
        let kept = usize::try_from(resumed.summary().stdout_bytes).unwrap();
        assert!(kept < written.len() && kept > written.len() - 40_000, "{kept}");
        assert_eq!(text(&all(&resumed), LogStream::Stdout), written[..kept]);
    }

    #[test]
    fn a_reader_of_what_a_killed_node_lost_misses_nothing_of_the_next_attempt() {
        let (folder, log) = log(1 << 20);
        let path = folder.path().join("ab/task.log");
        log.add(1, b"kept ");
        log.spill();
        let kept = log.read(0, LogStream::Unspecified).unwrap().next;
        log.add(1, b"lost with the node, and longer than all that comes after it");
        let lost = log.read(0, LogStream::Unspecified).unwrap().next;
        drop(log);

        let log = TaskLog::resume(path.clone(), 1 << 20).unwrap();
        log.attempt(2);
        log.add(1, b"again");
        log.add(2, b"and on");
        let whole = |read: &dyn Fn(u64) -> Piece, mut offset| {
            let mut pieces = Vec::new();
            loop {
                let piece = read(offset);
                let next = piece.next;
                pieces.push(piece);
                if next == offset {
                    return [text(&pieces, LogStream::Stdout), text(&pieces, LogStream::Stderr)].concat();
                }
                offset = next;
            }
        };
        let live = |offset| log.read(offset, LogStream::Unspecified).unwrap();
        assert_eq!(whole(&live, 0), b"kept againand on");
        for offset in [lost, kept, kept + 1] {
            assert_eq!(whole(&live, offset), b"againand on", "{offset}");
        }
        // An offset of this node's is what it says.
        let next = live(live(lost).next).next;
        assert!(next > lost, "a page compares them");
        log.add(1, b"!");
        assert_eq!(whole(&live, next), b"!");

        // The same when it has ended: in a file as here, or in a row.
        assert!(log.seal().is_none());
        let row = std::fs::read(&path).unwrap();
        for ended in [ended(None, &path, 2), ended(Some(&row), Path::new("/nowhere"), 2)] {
            let read = |offset| ended.read(offset, LogStream::Unspecified).unwrap();
            for offset in [lost, kept, kept + 1] {
                assert_eq!(whole(&read, offset), b"again!and on", "{ended:?} {offset}");
            }
            assert_eq!(whole(&read, next), b"!", "{ended:?}");
            let end = read(0).next;
            assert!(read(end).last && read(end).entries.is_empty(), "{ended:?}");
        }
    }

    #[test]
    fn bytes_written_one_at_a_time_share_frames() {
        let (_folder, log) = log(1 << 20);
        for _ in 0..10_000 {
            log.add(1, b"x");
        }
        let inner = log.lock();
        assert!(inner.in_file + (inner.memory.len() as u64) < 20_000, "a head for each byte would be 150,000");
    }

    #[tokio::test]
    async fn a_reader_is_woken() {
        let (_folder, log) = log(100);
        let changed = log.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        log.add(1, b"x");
        changed.await;
    }

    #[test]
    fn a_full_disk_is_counted_not_fatal() {
        let log = TaskLog::new(PathBuf::from("/dev/null/no.log"), 1 << 20);
        log.add(1, &vec![b'x'; 100_000]);
        log.add(1, b"later");
        let summary = log.summary();
        assert_eq!(summary.stdout_bytes + summary.dropped_bytes, 100_005);
        assert!(summary.dropped_bytes > 60_000);
    }
}
