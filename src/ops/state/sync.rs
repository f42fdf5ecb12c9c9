//! Owns the push of a state's sealed segments: each once, in order, as far as the repository can be reached.

use std::io::Read as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use super::remote::Remote;
use super::seal::{seal, writer_id};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::ops::sign::machine_key;
use crate::ops::{Vyr, blocking};
use crate::registry::{OpenBlob, Progress, SMALL};
use crate::state::{Base, Drain, Fork, Held, State, StateClass, States, SyncTag, WriterId};
use crate::telemetry;
use crate::trust::SigningKey;

/// Segments that are written down as pushed together.
const BATCH: u32 = 128;
/// Blobs, and signatures, that are on their way at once.
const AT_ONCE: usize = 16;
/// The head is moved forward after so many batches, and at the end.
const HEAD_EVERY: u64 = 4;

/// What a sync did, and what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// The state's name.
    pub state: String,
    /// Where to: `host[:port]/repository`.
    pub target: String,
    /// Segments that were pushed now.
    pub pushed: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Segments that wait.
    pub pending: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// The last place in the chain that is in the repository.
    pub head: u64,
    /// The repository had lost what was pushed, and this node no longer has these places, from and to.
    pub lost: Option<(u64, u64)>,
    /// Other writers that went on from the same place.
    pub forks: Vec<Fork>,
}

/// Seals what there is to seal, and pushes everything that waits. While another process pushes, this waits for it.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a state that isn't there, [`ErrorKind::Usage`] for one that isn't synced,
/// [`ErrorKind::Conflict`] when the repository has other segments under this node's name; what the registry fails with. What
/// was pushed before stays pushed.
pub async fn sync(vyr: &Vyr, name: &str) -> Result<SyncReport> {
    let states = vyr.states().await?;
    let state = states.find(name).await?;
    if state.class != StateClass::Synced {
        return Err(Error::new(ErrorKind::Usage, format!("the state `{name}` is of class {}", state.class.as_str()))
            .hint("only a state of class synced has somewhere to sync to"));
    }
    seal(vyr, &state).await?;
    let right = loop {
        match states.drain(state.id)? {
            Some(right) => break right,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    drain(vyr, &state, &right).await
}

/// Pushes everything of `state` that waits.
///
/// # Errors
/// As [`sync`].
#[tracing::instrument(name = "sync", skip_all, fields(state = state.name, pushed))]
pub async fn drain(vyr: &Vyr, state: &State, _right: &Drain) -> Result<SyncReport> {
    let states = vyr.states().await?;
    states.put_aside(state.id).await?;
    let mut report = SyncReport {
        state: state.name.clone(),
        target: state.target.clone().unwrap_or_default(),
        ..SyncReport::default()
    };
    let run = async {
        let remote = Remote::new(vyr.sync_client()?, &report.target)?;
        let drain = Draining {
            vyr,
            states,
            state,
            key: machine_key(&vyr.config().home)?,
            writer: writer_id(vyr)?,
            lineage: states.chain(state.id).await?.lineage,
            remote,
        };
        drain.run(&mut report).await
    };
    let done = run.await;
    tracing::Span::current().record("pushed", report.pushed);
    let why = done.as_ref().err().map(|e| e.why().to_owned());
    states.set_synced(state.id, why.as_deref()).await?;
    states.keep(state.id, vyr.config().state.keep_pushed_bytes()).await?;
    if let Err(e) = done {
        telemetry::count::sync_failed();
        return Err(e.attempted(format_args!("sync the state {}", state.name)));
    }
    let pending = states.pending(state.id).await?;
    (report.pending, report.pending_bytes) = (pending.segments, pending.bytes);
    report.head = states.chain(state.id).await?.pushed_seq;
    Ok(report)
}

struct Draining<'a> {
    vyr: &'a Vyr,
    states: &'a States,
    state: &'a State,
    key: SigningKey,
    writer: WriterId,
    lineage: String,
    remote: Remote,
}

/// A segment on its way.
#[derive(Debug)]
struct Ready {
    at: usize,
    held: Held,
    manifest: Vec<u8>,
}

impl Draining<'_> {
    async fn run(&self, report: &mut SyncReport) -> Result<()> {
        let chain = self.states.chain(self.state.id).await?;
        if chain.sealed_seq == chain.base_seq {
            return Ok(());
        }
        if chain.pushed_seq > chain.base_seq {
            report.lost = self.look_after(chain.pushed_seq).await?;
        }
        self.look_for_forks(report).await?;
        let pending = self.states.pending(self.state.id).await?;
        if pending.segments == 0 {
            return Ok(());
        }
        self.remote.push_empty().await?;
        let progress = self.vyr.reporter().begin(&format!("sync {}", self.state.name), pending.bytes);
        let (mut batches, mut last) = (0, None);
        loop {
            let batch = self.states.to_push(self.state.id, 0, BATCH).await?;
            if batch.is_empty() {
                break;
            }
            last = batch.last().cloned();
            let outcome = self.batch(batch, report, &*progress).await;
            batches += 1;
            // Of a failed batch, what is through is through.
            outcome?;
            if batches % HEAD_EVERY == 0 {
                self.move_head(last.take()).await?;
                self.states.keep(self.state.id, self.vyr.config().state.keep_pushed_bytes()).await?;
            }
        }
        self.move_head(last).await
    }

    fn tag(&self, seq: u64) -> SyncTag {
        SyncTag::Segment(self.writer.clone(), seq)
    }

    fn conflict(&self, tag: &SyncTag, found: &Digest, ours: &Digest) -> Error {
        Error::new(
            ErrorKind::Conflict,
            format!("{}:{tag} is {found}, and this node's segment is {ours}: it isn't overwritten", self.remote.name()),
        )
        .hint(
            "this data folder was restored from an older copy, or a copy of it runs elsewhere: pull the state from the \
             repository under a new key, or sync to another repository",
        )
    }

    /// Whether the last pushed segment is still there. If not, everything that is still here is to be pushed again, and of
    /// the rest it is said that it is lost.
    async fn look_after(&self, pushed: u64) -> Result<Option<(u64, u64)>> {
        let tag = self.tag(pushed);
        let here = self.states.held_segment(self.state.id, pushed).await?;
        match (self.remote.digest(&tag).await?, here) {
            (Some(found), Some(held)) if found != held.digest => {
                return Err(self.conflict(&tag, &found, &held.digest));
            }
            (Some(_), _) => return Ok(None),
            (None, _) => {}
        }
        let first = self.states.push_again(self.state.id).await?;
        let chain = self.states.chain(self.state.id).await?;
        let what = format!("{} has lost what was pushed of the state `{}`", self.remote.name(), self.state.name);
        if first == chain.base_seq + 1 {
            self.vyr.reporter().warning(&format!("{what}: all of it is pushed again"));
            return Ok(None);
        }
        let lost = (chain.base_seq + 1, first - 1);
        self.vyr.reporter().warning(&format!(
            "{what}: segments {} to {} are no longer here and lost, the rest is pushed again",
            lost.0, lost.1
        ));
        let previous = match self.states.held_segment(self.state.id, first).await? {
            Some(held) => held.previous,
            None => chain.sealed_digest,
        };
        let base = Base { lineage: self.lineage.clone(), writer: self.writer.clone(), from: lost.0, first, previous };
        let manifest = base.manifest();
        self.remote.push_empty().await?;
        let digest = self.remote.push_manifest(&SyncTag::Base(self.writer.clone()), &manifest).await?;
        self.remote.sign(&self.key, &digest, manifest.len() as u64).await?;
        // The lost ones may have held the files as they are: those are sealed once more, all of them.
        self.states.seal_everything_again(self.state.id).await?;
        seal(self.vyr, self.state).await?;
        Ok(Some(lost))
    }

    async fn look_for_forks(&self, report: &mut SyncReport) -> Result<()> {
        let chain = self.states.chain(self.state.id).await?;
        let base = (chain.base_seq, chain.base_digest.as_ref());
        report.forks = self.remote.forks(&self.writer, base, chain.sealed_seq).await?;
        for fork in report.forks.iter().filter(|fork| !chain.forks.contains(fork)) {
            self.vyr.reporter().warning(&format!(
                "the state `{}` has forked: {} went on from segment {} as this node did; both chains are kept",
                self.state.name, fork.writer, fork.after
            ));
        }
        if report.forks != chain.forks {
            self.states.set_forks(self.state.id, &report.forks).await?;
        }
        Ok(())
    }

    async fn move_head(&self, last: Option<Held>) -> Result<()> {
        let Some(held) = last else { return Ok(()) };
        let manifest = self.manifest(&held)?;
        self.remote.push_manifest(&SyncTag::Head(self.writer.clone()), &manifest).await.map(drop)
    }

    fn manifest(&self, held: &Held) -> Result<Vec<u8>> {
        let manifest = held.segment(self.state, &self.lineage, &self.writer).manifest();
        if crate::oci::sha256(&manifest) == held.digest {
            return Ok(manifest);
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("segment {} of the state `{}` was sealed under another key", held.seq, self.state.name),
        )
        .hint("put the machine key back that this data folder had"))
    }

    /// Pushes some segments, and writes down how far that went.
    async fn batch(&self, batch: Vec<Held>, report: &mut SyncReport, progress: &dyn Progress) -> Result<()> {
        // What an earlier try got through isn't sent again, but for signatures: whether those are there isn't known.
        let mut there = 0;
        for held in &batch {
            let tag = self.tag(held.seq);
            match self.remote.digest(&tag).await? {
                None => break,
                Some(found) if found == held.digest => there += 1,
                Some(found) => return Err(self.conflict(&tag, &found, &held.digest)),
            }
        }
        let signed = Mutex::new(vec![false; batch.len()]);
        let outcome = self.pipeline(&batch, there, &signed, report.pushed_bytes, progress).await;
        let signed = signed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let through = signed.iter().take_while(|signed| **signed).count();
        let done = batch.get(..through).unwrap_or_default();
        self.states.mark_pushed(self.state.id, done).await?;
        let bytes: u64 = done.iter().map(|held| held.held).sum();
        report.pushed += done.len() as u64;
        report.pushed_bytes += bytes;
        telemetry::count::segments_pushed(done.len() as u64, bytes);
        outcome
    }

    /// Three stages at once: blobs of the next segments, manifests one after the other, signatures of those before.
    async fn pipeline(
        &self,
        batch: &[Held],
        there: usize,
        signed: &Mutex<Vec<bool>>,
        done: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        // At a pace, what goes at once only waits for each other, and each of it looks as if it stood still.
        let at_once = if self.vyr.config().state.sync_bytes_per_second.is_some() { 1 } else { AT_ONCE };
        let (to_manifests, mut blobs) = mpsc::channel::<Ready>(at_once);
        let (to_signatures, mut manifests) = mpsc::channel::<Ready>(at_once);
        let gone = |_| Error::new(ErrorKind::Internal, "a stage of the sync ended before the others");
        let sent = AtomicU64::new(done);
        let ready: Vec<_> = batch.iter().enumerate().map(|(at, held)| self.ready(at, held.clone(), there)).collect();
        tokio::try_join!(
            async move {
                let mut ready = stream::iter(ready).buffered(at_once);
                while let Some(next) = ready.next().await {
                    to_manifests.send(next?).await.map_err(gone)?;
                }
                Ok::<_, Error>(())
            },
            async move {
                while let Some(next) = blobs.recv().await {
                    if next.at >= there {
                        self.remote.push_manifest(&self.tag(next.held.seq), &next.manifest).await?;
                    }
                    progress.at(sent.fetch_add(next.held.held, Ordering::Relaxed) + next.held.held);
                    to_signatures.send(next).await.map_err(gone)?;
                }
                Ok::<_, Error>(())
            },
            async move {
                let mut running = FuturesUnordered::new();
                loop {
                    tokio::select! {
                        Some(done) = running.next(), if !running.is_empty() => done?,
                        next = manifests.recv(), if running.len() < at_once => match next {
                            Some(next) => running.push(self.sign(next, signed)),
                            None => break,
                        },
                    }
                }
                while let Some(done) = running.next().await {
                    done?;
                }
                Ok::<_, Error>(())
            },
        )?;
        Ok(())
    }

    async fn ready(&self, at: usize, held: Held, there: usize) -> Result<Ready> {
        let manifest = self.manifest(&held)?;
        if at >= there {
            self.push_layer(&held).await?;
        }
        Ok(Ready { at, held, manifest })
    }

    async fn sign(&self, next: Ready, signed: &Mutex<Vec<bool>>) -> Result<()> {
        self.remote.sign(&self.key, &next.held.digest, next.manifest.len() as u64).await?;
        if let Some(slot) = signed.lock().unwrap_or_else(PoisonError::into_inner).get_mut(next.at) {
            *slot = true;
        }
        Ok(())
    }

    async fn push_layer(&self, held: &Held) -> Result<()> {
        let folder = self.states.folder(self.state.id);
        if held.size > SMALL {
            let content = held.clone();
            let open: OpenBlob = Arc::new(move || content.open(&folder).map_err(std::io::Error::other));
            let reference = self.remote.reference();
            return self.remote.client.push_in_pieces(reference, &held.layer, held.size, open, &()).await;
        }
        let content = held.clone();
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            let failed = |e| Error::new(ErrorKind::Storage, format!("segment {} can't be read: {e}", content.seq));
            content.open(&folder)?.take(SMALL + 1).read_to_end(&mut bytes).map_err(failed)?;
            crate::oci::check_digest(&content.layer, &bytes)?;
            Ok(bytes)
        })
        .await?;
        self.remote.client.push_small_blob(self.remote.reference(), &held.layer, bytes.into()).await
    }
}
