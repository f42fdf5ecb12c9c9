//! Owns sealing: what waits in `sealing/` becomes segments, each once and in its order.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

use super::chain::{Chain, digest_bytes};
use super::changeset::OutboxTar;
use super::db::{micros, number};
use super::outbox::{Item, items, items_without_a_gap, rename};
use super::segment::{SegmentKind, WriterId, whole_micros};
use super::{Folder, Held, State, StateError, StateId, States};
use crate::oci::{Digest, Hasher, sha256};

/// Segments that are sealed in one transaction.
const BATCH: usize = 2_000;

impl States {
    /// Seals what waits in `sealing/`, in its order, each once: an item whose segment is written down already is left.
    /// Returns how many were sealed.
    ///
    /// # Errors
    /// The disk's or the database's; what was sealed before stays.
    pub async fn seal(&self, state: &State, writer: &WriterId) -> Result<u64, StateError> {
        let (id, folder) = (state.id, self.folder(state.id));
        let path = folder.seal_lock();
        let _turn = super::blocking(move || super::lock::turn(&path)).await?;
        let mut chain = self.chain(state.id).await?;
        let (sealing, known) = (folder.sealing(), chain.sealed_seq);
        let waiting = super::blocking(move || {
            let mut found = items_without_a_gap(&sealing).map_err(StateError::io("list", &sealing))?;
            found.retain(|item| item.seq > known);
            Ok(found)
        })
        .await?;
        let mut sealed = 0;
        for batch in waiting.chunks(BATCH) {
            let (state, writer, folder) = (state.clone(), writer.clone(), folder.clone());
            let (flusher, batch, before) = (self.flusher().clone(), batch.to_vec(), chain.clone());
            let segments = super::blocking(move || {
                let segments = seal_batch(&state, &writer, &folder, before, batch)?;
                // What a row says is there has to be there after a power cut, too.
                flusher.flush().map_err(StateError::io("force to disk", folder.root()))?;
                Ok(segments)
            })
            .await?;
            let Some(last) = segments.last() else { continue };
            (chain.sealed_seq, chain.sealed_digest) = (last.seq, Some(last.digest.clone()));
            self.write_sealed(id, &chain, &segments).await?;
            sealed += segments.len() as u64;
        }
        if sealed > 0 {
            self.tell_sealed();
        }
        Ok(sealed)
    }

    async fn write_sealed(&self, id: StateId, chain: &Chain, segments: &[Held]) -> Result<(), StateError> {
        let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await?;
        for segment in segments {
            sqlx::query(
                "INSERT INTO segment (state, seq, digest, previous, layer, size, held, kind, name, sealed_us) \
                 VALUES (?,?,?,?,?,?,?,?,?,?)",
            )
            .bind(id.as_bytes().to_vec())
            .bind(number(segment.seq))
            .bind(digest_bytes(&segment.digest))
            .bind(segment.previous.as_ref().map(digest_bytes))
            .bind(digest_bytes(&segment.layer))
            .bind(number(segment.size))
            .bind(number(segment.held))
            .bind(segment.kind.number())
            .bind(segment.name.as_bytes().to_vec())
            .bind(micros(segment.sealed))
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "INSERT INTO chain (state, lineage, base_seq, base_digest, sealed_seq, sealed_digest, pushed_seq) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (state) DO UPDATE SET sealed_seq = ?5, sealed_digest = ?6",
        )
        .bind(id.as_bytes().to_vec())
        .bind(chain.lineage.clone())
        .bind(number(chain.base_seq))
        .bind(chain.base_digest.as_ref().map(digest_bytes))
        .bind(number(chain.sealed_seq))
        .bind(chain.sealed_digest.as_ref().map(digest_bytes))
        .bind(number(chain.pushed_seq))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Forgets what was sealed of the files, so that the next seal has all of them.
    ///
    /// # Errors
    /// The file system's.
    pub async fn seal_everything_again(&self, id: StateId) -> Result<(), StateError> {
        let folder = self.folder(id);
        super::blocking(move || {
            let _turn = super::lock::turn(&folder.seal_lock())?;
            for path in [folder.new_index(), folder.index()] {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(StateError::io("remove", &path)(e));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether something waits in `sealing/` that no row says.
    ///
    /// # Errors
    /// The file system's.
    pub async fn has_unsealed(&self, id: StateId) -> Result<bool, StateError> {
        let (sealing, known) = (self.folder(id).sealing(), self.chain(id).await?.sealed_seq);
        super::blocking(move || {
            let found = items(&sealing).map_err(StateError::io("list", &sealing))?;
            Ok(found.last().is_some_and(|item| item.seq > known))
        })
        .await
    }
}

/// Makes the segments of some items, which follow `chain`.
fn seal_batch(
    state: &State,
    writer: &WriterId,
    folder: &Folder,
    chain: Chain,
    batch: Vec<Item>,
) -> Result<Vec<Held>, StateError> {
    let sealing = folder.sealing();
    let (mut last_seq, mut previous) = (chain.sealed_seq, chain.sealed_digest);
    let now = whole_micros(SystemTime::now());
    let mut segments = Vec::with_capacity(batch.len());
    for mut item in batch {
        // A power cut may have taken one that nobody was told of, and left a later one: the chain has no gap.
        if item.seq != last_seq + 1 {
            let from = sealing.join(item.file_name());
            item.seq = last_seq + 1;
            let to = sealing.join(item.file_name());
            if to.symlink_metadata().is_ok() {
                let taken = io::Error::new(io::ErrorKind::AlreadyExists, "its place in the chain is taken");
                return Err(StateError::io("move", &from)(taken));
            }
            rename(&from, &to).map_err(StateError::io("move", &from))?;
        }
        let path = sealing.join(item.file_name());
        let failed = |e| StateError::io("seal", &path)(e);
        let file = File::open(&path).map_err(failed)?;
        let held = file.metadata().map_err(failed)?.len();
        let (layer, size) = match item.kind {
            SegmentKind::Changes => (hash(file).map_err(failed)?, held),
            SegmentKind::Outbox => {
                let tar = OutboxTar::new(&item.name, held).map_err(failed)?;
                (hash(tar.reader(file)).map_err(failed)?, tar.bytes())
            }
        };
        let mut segment = Held {
            seq: item.seq,
            digest: layer.clone(),
            previous,
            layer,
            size,
            held,
            kind: item.kind,
            name: item.name,
            // Segments that are sealed together keep their order in this, too.
            sealed: now + Duration::from_micros(segments.len() as u64),
        };
        segment.digest = sha256(&segment.segment(state, &chain.lineage, writer).manifest());
        previous = Some(segment.digest.clone());
        last_seq = segment.seq;
        segments.push(segment);
    }
    Ok(segments)
}

fn hash(mut from: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
