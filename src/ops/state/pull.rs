//! Owns the rebuilding of a state from its repository alone: read, verified, written out.

use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::history::{ForkAt, History, Line};
use super::remote::{Found, Remote};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Hasher, check_digest, parse_reference, repository_of};
use crate::ops::verify::Policy;
use crate::ops::{Vyr, audit, blocking};
use crate::registry::{MemorySink, Progress, ThreadedSink};
use crate::state::{
    DEFAULT_QUOTA_BYTES, NewState, OUTBOX, SegmentKind, StateClass, StateKind, StateName, Target, WriterId,
};
use crate::telemetry;
use crate::trust::{Override, Refusal};

/// Layers that are fetched at once.
const AT_ONCE: usize = 8;
/// A layer up to this is held in memory, in bytes.
const IN_MEMORY: u64 = 1 << 20;
/// How far back from a writer's last segment its newest signature is looked for.
const UNSIGNED_AT_MOST: usize = 1024;

/// Where what is pulled goes.
#[derive(Debug, Clone)]
pub enum PullTo {
    /// Into a new synced state of this name, which goes on from there.
    State(StateName),
    /// Into a folder, which is empty or not there.
    Folder(PathBuf),
}

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// `host[:port]/repository`.
    pub repository: String,
    /// Where to.
    pub to: PullTo,
    /// What the state that is made holds: no segment says it.
    pub kind: StateKind,
    /// Go on although the trust policy refuses.
    pub allow_unsigned: bool,
}

/// Segments that are gone, as their writer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Whose.
    pub writer: WriterId,
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// The digest of what says so.
    pub said_by: String,
}

/// One writer's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// Who.
    pub writer: WriterId,
    /// How many segments.
    pub segments: u64,
    /// How many of them are records of an outbox.
    pub records: u64,
    /// The last one's place in the chain.
    pub head: u64,
    /// The last one's digest.
    pub digest: String,
    /// Why it is trusted.
    pub accepted: String,
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// The repository.
    pub repository: String,
    /// Segments applied.
    pub segments: u64,
    /// Records of outboxes among them.
    pub records: u64,
    /// Segments at the ends of chains that nobody has signed yet; they are left.
    pub unsigned: u64,
    /// Bytes of the files written.
    pub bytes: u64,
    /// Each writer's part.
    pub writers: Vec<Pulled>,
    /// What is gone.
    pub lost: Vec<Lost>,
    /// Where more than one chain goes on.
    pub forks: Vec<ForkAt>,
}

/// Rebuilds a state from a repository: its files, with each record of an outbox at `outbox/<place>-<name>`. Where chains
/// forked, each writer's files and records are in a folder of the writer's name.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a repository without segments; [`ErrorKind::Refused`] for a chain that isn't whole, for what
/// the trust policy refuses, and for content that leads out; [`ErrorKind::Conflict`] for a place that is taken.
#[tracing::instrument(name = "state_pull", skip_all, fields(repository = request.repository, segments))]
pub async fn pull(vyr: &Vyr, request: PullRequest) -> Result<PullReport> {
    let whole = parse_reference(&request.repository)?;
    if repository_of(&whole) != request.repository {
        return Err(Error::new(ErrorKind::Usage, "a state is pulled from a whole repository, without tag or digest")
            .hint("write host:5000/readings"));
    }
    let states = vyr.states().await?;
    let scratch = match &request.to {
        PullTo::State(name) => {
            if states.find(name.as_str()).await.is_ok() {
                return Err(Error::new(ErrorKind::Conflict, format!("there is a state `{name}` already"))
                    .hint("choose another name"));
            }
            vyr.config().home.root().join("state")
        }
        PullTo::Folder(folder) => {
            let taken = std::fs::read_dir(folder).is_ok_and(|mut listed| listed.next().is_some());
            if taken || folder.is_file() {
                return Err(Error::new(ErrorKind::Conflict, format!("{} is not empty", folder.display()))
                    .hint("name a folder that is empty or not there"));
            }
            std::path::absolute(folder).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_else(|| ".".into())
        }
    };
    let remote = Remote::new(vyr.client(&whole)?, &request.repository)?;
    let mut history = History::read(&remote).await?;
    let (accepted, unsigned) = verify(vyr, &remote, &mut history, request.allow_unsigned).await?;
    let made = std::fs::create_dir_all(&scratch)
        .and_then(|()| tempfile::Builder::new().prefix(".pull-").tempdir_in(&scratch))
        .map_err(|e| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", scratch.display())))?;
    let files = made.path().join("files");
    let (segments, records, bytes) = write(vyr, &remote, &history, &files).await?;
    tracing::Span::current().record("segments", segments);
    let report = PullReport {
        repository: request.repository.clone(),
        segments,
        records,
        unsigned,
        bytes,
        writers: accepted.into_iter().filter_map(|(writer, why)| part(history.lines.get(&writer)?, why)).collect(),
        lost: history.lost.clone(),
        forks: history.forks.clone(),
    };
    place(vyr, &request, &history, files, bytes).await?;
    Ok(report)
}

fn is_record(found: &Found) -> bool {
    found.segment.kind == SegmentKind::Outbox
}

fn part(line: &Line, accepted: String) -> Option<Pulled> {
    let last = line.last()?;
    Some(Pulled {
        writer: line.writer.clone(),
        segments: line.segments.len() as u64,
        records: line.segments.iter().filter(|found| is_record(found)).count() as u64,
        head: last.segment.seq,
        digest: last.digest.to_string(),
        accepted,
    })
}

/// Asks the policy about each writer's newest signed segment, which vouches for those before it, and about what is said to
/// be lost. What comes after it is cut off. Returns why each is trusted, and how many were cut off.
async fn verify(
    vyr: &Vyr,
    remote: &Remote,
    history: &mut History,
    allow_unsigned: bool,
) -> Result<(Vec<(WriterId, String)>, u64)> {
    let policy = Policy::load(vyr)?;
    let (mut accepted, mut unsigned) = (Vec::new(), 0);
    let writers: Vec<WriterId> = history.lines.keys().cloned().collect();
    for writer in writers {
        let Some(line) = history.lines.get(&writer) else { continue };
        let before = line.segments.len() as u64;
        let mut outcome: Option<(u64, String)> = None;
        let mut refusal: Option<Refusal> = None;
        for found in line.segments.iter().rev().take(UNSIGNED_AT_MOST) {
            let material = remote.signatures(&found.digest).await?;
            match policy.judge_one(&remote.name(), &found.digest, &material, Override::None) {
                Ok(acceptance) => {
                    outcome = Some((found.segment.seq, acceptance.to_string()));
                    break;
                }
                // The push may be under way, and the signature come next.
                Err(why @ Refusal::Unsigned { .. }) => refusal = refusal.or(Some(why)),
                Err(why) => {
                    refusal = Some(why);
                    break;
                }
            }
        }
        if let (None, Some(why), true) = (&outcome, &refusal, allow_unsigned) {
            outcome = Some(overrule(vyr, &policy, remote, line, why).await?);
        }
        let Some((last, why)) = outcome else {
            let why = refusal.unwrap_or_else(|| Refusal::Unsigned { digest: remote.name() });
            telemetry::count::refused(why.word());
            return Err(Error::from(why));
        };
        history.cut(&writer, Some(last));
        let left = history.lines.get(&writer).map_or(0, |line| line.segments.len() as u64);
        unsigned += before - left;
        accepted.push((writer, why));
    }
    for lost in &history.lost {
        let digest = crate::oci::parse_digest(&lost.said_by)?;
        let material = remote.signatures(&digest).await?;
        let overrule = if allow_unsigned { Override::AllowUnsigned } else { Override::None };
        policy.judge_one(&remote.name(), &digest, &material, overrule).map_err(|why| {
            telemetry::count::refused(why.word());
            Error::from(why)
        })?;
    }
    Ok((accepted, unsigned))
}

/// Goes on although the policy refuses, and records it first.
async fn overrule(vyr: &Vyr, policy: &Policy, remote: &Remote, line: &Line, why: &Refusal) -> Result<(u64, String)> {
    let last = line.last().ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without a segment"))?;
    let material = remote.signatures(&last.digest).await?;
    // A rule that rejects stays.
    let acceptance = policy.judge_one(&remote.name(), &last.digest, &material, Override::AllowUnsigned)?;
    let name = remote.name();
    let deed = audit::Deed { verb: "state pull", reference: &name, asked_by: None };
    audit::unsigned(vyr, deed, &last.digest, &why.to_string())?;
    vyr.reporter().warning(&format!("pulling although {why} (--allow-unsigned)"));
    Ok((last.segment.seq, acceptance.to_string()))
}

/// Writes everything under `files`.
async fn write(vyr: &Vyr, remote: &Remote, history: &History, files: &Path) -> Result<(u64, u64, u64)> {
    let tips = history.tips();
    let mut plans: Vec<(PathBuf, Vec<&Found>)> = Vec::new();
    match tips.as_slice() {
        [only] => plans.push((files.to_owned(), history.up_to(only))),
        _ => {
            for line in history.lines.values() {
                let is_tip = tips.iter().any(|tip| tip.writer == line.writer);
                // The files as they were at this end; of records, each writer's own, so that each is there once.
                let wanted = |found: &&Found| match is_record(found) {
                    true => found.segment.writer == line.writer,
                    false => is_tip,
                };
                let folder = files.join(line.writer.as_str());
                plans.push((folder, history.up_to(line).into_iter().filter(wanted).collect()));
            }
        }
    }
    let total = plans.iter().flat_map(|(_, plan)| plan).map(|found| found.segment.size).sum();
    let progress = vyr.reporter().begin(&format!("pull {}", remote.name()), total);
    let (mut done, mut bytes) = (0, 0);
    for (folder, plan) in plans {
        let target = Arc::new(Target::create(&folder).map_err(|e| storage(&folder, &e))?);
        let mut layers = stream::iter(plan)
            .map(|found| async move { Ok::<_, Error>((found, layer(remote, found).await?)) })
            .buffered(AT_ONCE);
        while let Some(next) = layers.next().await {
            let (found, layer) = next?;
            let (target, kind, seq) = (Arc::clone(&target), found.segment.kind, found.segment.seq);
            let applied = blocking(move || {
                target.apply(layer, kind, seq).map_err(|e| {
                    if e.kind() == std::io::ErrorKind::InvalidData {
                        return Error::new(ErrorKind::Refused, format!("segment {seq}: {e}"));
                    }
                    storage(target.root(), &e)
                })
            })
            .await?;
            bytes += applied.bytes;
            done += found.segment.size;
            progress.at(done);
        }
    }
    let all = history.lines.values().flat_map(|line| &line.segments);
    let (segments, records) =
        all.fold((0, 0), |(segments, records), found| (segments + 1, records + u64::from(is_record(found))));
    Ok((segments, records, bytes))
}

fn storage(path: &Path, e: &std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::StorageFull { ErrorKind::Exhausted } else { ErrorKind::Storage };
    Error::new(kind, format!("{} can't be written: {e}", path.display()))
}

/// A layer's bytes, verified.
async fn layer(remote: &Remote, found: &Found) -> Result<Box<dyn std::io::Read + Send>> {
    let (digest, size) = (&found.segment.layer, found.segment.size);
    let fetch = async |sink: &mut dyn crate::registry::BlobSink| {
        remote.client.blob(remote.reference(), digest, size, sink, &() as &dyn Progress).await
    };
    if size <= IN_MEMORY {
        let mut sink = MemorySink::default();
        fetch(&mut sink).await?;
        check_digest(digest, &sink.0)?;
        return Ok(Box::new(std::io::Cursor::new(sink.0)));
    }
    let failed = |e: std::io::Error| Error::new(ErrorKind::Storage, format!("a temporary file can't be written: {e}"));
    let file = Hashed { file: tempfile::tempfile().map_err(failed)?, hasher: Hasher::for_digest(digest)? };
    let mut sink = ThreadedSink::new(file, 0);
    let moved = fetch(&mut sink).await;
    let finished = sink.finish().await.map_err(failed);
    moved?;
    let Hashed { mut file, hasher } = finished?;
    let sum: Digest = hasher.finish();
    if sum != *digest {
        return Err(crate::oci::digest_mismatch(digest, &sum));
    }
    file.rewind().map_err(failed)?;
    Ok(Box::new(std::io::BufReader::new(file)))
}

#[derive(Debug)]
struct Hashed {
    file: std::fs::File,
    hasher: Hasher,
}

impl std::io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Puts the files where they were wanted.
async fn place(vyr: &Vyr, request: &PullRequest, history: &History, files: PathBuf, bytes: u64) -> Result<()> {
    let tips = history.tips();
    let newest = tips.iter().filter_map(|line| line.last()).max_by(|a, b| {
        let key = |found: &Found| (found.segment.seq, std::cmp::Reverse(found.segment.writer.clone()));
        key(a).cmp(&key(b))
    });
    match &request.to {
        PullTo::Folder(folder) => {
            let to = folder.clone();
            blocking(move || move_into(&files, &to).map_err(|e| storage(&to, &e))).await
        }
        PullTo::State(name) => {
            let head = newest.ok_or_else(|| Error::new(ErrorKind::Internal, "no chain has an end"))?;
            let new = NewState {
                name: name.clone(),
                class: StateClass::Synced,
                kind: request.kind,
                // Room for what it has, and as much again.
                quota_bytes: bytes.saturating_mul(2).max(DEFAULT_QUOTA_BYTES),
                time_to_live: None,
                target: Some(request.repository.clone()),
            };
            let outbox = files.join(OUTBOX);
            blocking(move || std::fs::create_dir_all(&outbox).map_err(|e| storage(&outbox, &e))).await?;
            let states = vyr.states().await?;
            states.restore(new, files, &head.segment.lineage, (head.segment.seq, &head.digest)).await?;
            Ok(())
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the folder is empty or not there, and what comes is whole")]
fn move_into(files: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(files, to)
}
