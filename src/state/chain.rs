//! Owns where a synced state's chain stands: sealing what waits into segments, which are pushed, and what is kept of them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::changeset::OutboxTar;
use super::db::{insert, micros, number, time};
use super::outbox::{Item, items, note_sealed, rename};
use super::segment::{Segment, SegmentKind, WriterId, whole_micros};
use super::{Folder, NewState, State, StateError, StateId, States};
use crate::oci::{Digest, Hasher, parse_digest, sha256};

/// Segments that are sealed in one transaction.
const BATCH: usize = 2_000;

/// Another writer that went on from the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// Who.
    pub writer: WriterId,
    /// The last place that both have.
    pub after: u64,
}

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The state's identity across nodes.
    pub lineage: String,
    /// What this node's first segment follows.
    pub base_seq: u64,
    /// Its digest.
    pub base_digest: Option<Digest>,
    /// The last segment sealed.
    pub sealed_seq: u64,
    /// Its digest.
    pub sealed_digest: Option<Digest>,
    /// The last one pushed.
    pub pushed_seq: u64,
    /// When the last push succeeded.
    pub synced: Option<SystemTime>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// Other writers that went on from the same place.
    pub forks: Vec<Fork>,
}

/// A segment whose content is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its place.
    pub seq: u64,
    /// Its manifest's digest.
    pub digest: Digest,
    /// The digest of the manifest before it.
    pub previous: Option<Digest>,
    /// Its layer's digest.
    pub layer: Digest,
    /// Its layer's size in bytes.
    pub size: u64,
    /// What it takes on disk, in bytes.
    pub held: u64,
    /// What it holds.
    pub kind: SegmentKind,
    /// Of a record, as the guest called it.
    pub name: OsString,
    /// When it was sealed.
    pub sealed: SystemTime,
}

/// What waits to be pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many segments.
    pub segments: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// When the oldest one was sealed.
    pub oldest: Option<SystemTime>,
}

fn digest_bytes(digest: &Digest) -> Vec<u8> {
    hex::decode(digest.digest()).unwrap_or_default()
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    parse_digest(&format!("sha256:{}", hex::encode(bytes))).ok()
}

fn whole(row: &SqliteRow, column: &str) -> Result<u64, StateError> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

fn optional(row: &SqliteRow, column: &str) -> Result<Option<Digest>, StateError> {
    Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.as_deref().and_then(digest))
}

fn held(row: &SqliteRow) -> Result<Held, StateError> {
    let damaged = || StateError::Damaged { name: "segments".into(), why: "a row isn't one".into() };
    Ok(Held {
        seq: whole(row, "seq")?,
        digest: optional(row, "digest")?.ok_or_else(damaged)?,
        previous: optional(row, "previous")?,
        layer: optional(row, "layer")?.ok_or_else(damaged)?,
        size: whole(row, "size")?,
        held: whole(row, "held")?,
        kind: SegmentKind::from_number(row.try_get("kind")?).ok_or_else(damaged)?,
        name: OsString::from_vec(row.try_get("name")?),
        sealed: time(row.try_get("sealed_us")?),
    })
}

/// The right to push a state's segments, while it lives.
#[derive(Debug)]
#[must_use]
pub struct Drain(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Held {
    /// The segment, for its manifest.
    #[must_use]
    pub fn segment(&self, state: &State, lineage: &str, writer: &WriterId) -> Segment {
        Segment {
            name: state.name.clone(),
            lineage: lineage.to_owned(),
            writer: writer.clone(),
            seq: self.seq,
            previous: self.previous.clone(),
            sealed: self.sealed,
            kind: self.kind,
            layer: self.layer.clone(),
            size: self.size,
        }
    }

    /// Reads the layer's bytes. Blocks.
    ///
    /// # Errors
    /// The content is gone, or isn't what was sealed.
    pub fn open(&self, folder: &Folder) -> Result<Box<dyn Read + Send>, StateError> {
        let item = self.item().file_name();
        let mut place = folder.sealing().join(&item);
        let file = match File::open(&place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                place = folder.pushed().join(&item);
                File::open(&place)
            }
            other => other,
        };
        let failed = |e| StateError::io("open the segment", &place)(e);
        let file = file.map_err(failed)?;
        match self.kind {
            SegmentKind::Changes => Ok(Box::new(file)),
            SegmentKind::Outbox => {
                let tar = OutboxTar::new(&self.name, self.held).map_err(failed)?;
                Ok(Box::new(tar.reader(file)))
            }
        }
    }

    fn item(&self) -> Item {
        Item { seq: self.seq, kind: self.kind, name: self.name.clone() }
    }
}

impl States {
    /// The right to push a state's segments; `None` while somebody else has it.
    ///
    /// # Errors
    /// The file system's.
    pub fn drain(&self, id: StateId) -> Result<Option<Drain>, StateError> {
        Ok(super::lock::alone(&self.folder(id).sync_lock())?.map(Drain))
    }

    /// Where a state's chain stands.
    ///
    /// # Errors
    /// The database's.
    pub async fn chain(&self, id: StateId) -> Result<Chain, StateError> {
        let row = sqlx::query(
            "SELECT lineage, base_seq, base_digest, sealed_seq, sealed_digest, pushed_seq, synced_us, error, forks \
             FROM chain WHERE state = ?",
        )
        .bind(id.as_bytes().to_vec())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else {
            return Ok(Chain {
                lineage: id.to_string(),
                base_seq: 0,
                base_digest: None,
                sealed_seq: 0,
                sealed_digest: None,
                pushed_seq: 0,
                synced: None,
                error: None,
                forks: Vec::new(),
            });
        };
        Ok(Chain {
            lineage: row.try_get("lineage")?,
            base_seq: whole(&row, "base_seq")?,
            base_digest: optional(&row, "base_digest")?,
            sealed_seq: whole(&row, "sealed_seq")?,
            sealed_digest: optional(&row, "sealed_digest")?,
            pushed_seq: whole(&row, "pushed_seq")?,
            synced: row.try_get::<Option<i64>, _>("synced_us")?.map(time),
            error: row.try_get("error")?,
            forks: serde_json::from_str(row.try_get("forks")?).unwrap_or_default(),
        })
    }

    /// Makes a synced state of the files under `files`, a folder on the same device, which goes on from the segment `head` at
    /// place `seq`. There is all of it, or nothing.
    ///
    /// # Errors
    /// [`StateError::Exists`] for a name that is taken; the disk's.
    pub async fn restore(
        &self,
        new: NewState,
        files: PathBuf,
        lineage: &str,
        (seq, head): (u64, &Digest),
    ) -> Result<State, StateError> {
        let mut state = State::new(new);
        let (folder, flusher) = (self.folder(state.id), self.flusher().clone());
        let making = folder.clone();
        state.used_bytes = super::blocking(move || {
            making.make()?;
            let data = making.data();
            rename(&files, &data).map_err(StateError::io("move the files to", &data))?;
            note_sealed(&making).map_err(StateError::io("look at", &data))?;
            flusher.flush().map_err(StateError::io("force to disk", &data))?;
            Ok(making.measure()?.0)
        })
        .await?;
        let rows = async {
            let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await?;
            insert(&mut tx, &state).await?;
            sqlx::query(
                "INSERT INTO chain (state, lineage, base_seq, base_digest, sealed_seq, sealed_digest, pushed_seq) \
                 VALUES (?1, ?2, ?3, ?4, ?3, ?4, ?3)",
            )
            .bind(state.id.as_bytes().to_vec())
            .bind(lineage.to_owned())
            .bind(number(seq))
            .bind(digest_bytes(head))
            .execute(&mut *tx)
            .await?;
            Ok::<_, StateError>(tx.commit().await?)
        };
        if let Err(e) = rows.await {
            drop(folder.remove());
            return Err(e);
        }
        Ok(state)
    }

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
            let mut found = items(&sealing).map_err(StateError::io("list", &sealing))?;
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

    /// Segments to be pushed, oldest first, from place `from` on, at most `most`.
    ///
    /// # Errors
    /// The database's.
    pub async fn to_push(&self, id: StateId, from: u64, most: u32) -> Result<Vec<Held>, StateError> {
        let rows = sqlx::query(
            "SELECT seq, digest, previous, layer, size, held, kind, name, sealed_us FROM segment \
             WHERE state = ? AND pushed_us IS NULL AND seq >= ? ORDER BY seq LIMIT ?",
        )
        .bind(id.as_bytes().to_vec())
        .bind(number(from))
        .bind(i64::from(most))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(held).collect()
    }

    /// One segment that is here, pushed or not.
    ///
    /// # Errors
    /// The database's.
    pub async fn held_segment(&self, id: StateId, seq: u64) -> Result<Option<Held>, StateError> {
        let row = sqlx::query(
            "SELECT seq, digest, previous, layer, size, held, kind, name, sealed_us FROM segment WHERE state = ? AND seq = ?",
        )
        .bind(id.as_bytes().to_vec())
        .bind(number(seq))
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(held).transpose()
    }

    /// What waits to be pushed.
    ///
    /// # Errors
    /// The database's.
    pub async fn pending(&self, id: StateId) -> Result<Pending, StateError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n, COALESCE(SUM(held), 0) AS bytes, MIN(sealed_us) AS oldest FROM segment \
             WHERE state = ? AND pushed_us IS NULL",
        )
        .bind(id.as_bytes().to_vec())
        .fetch_one(self.pool())
        .await?;
        Ok(Pending {
            segments: whole(&row, "n")?,
            bytes: whole(&row, "bytes")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(time),
        })
    }

    /// Writes down that these segments are in the repository, one after the other up to the last; what they took isn't
    /// counted any more, and they are kept as long as there is room (see [`States::keep`]).
    ///
    /// # Errors
    /// The database's, or the file system's; then the next call does the rest.
    pub async fn mark_pushed(&self, id: StateId, segments: &[Held]) -> Result<(), StateError> {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(()) };
        let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE segment SET pushed_us = ? WHERE state = ? AND pushed_us IS NULL AND seq BETWEEN ? AND ?")
            .bind(micros(SystemTime::now()))
            .bind(id.as_bytes().to_vec())
            .bind(number(first.seq))
            .bind(number(last.seq))
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE chain SET pushed_seq = MAX(pushed_seq, ?) WHERE state = ?")
            .bind(number(last.seq))
            .bind(id.as_bytes().to_vec())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.move_aside(id, segments.iter().map(Held::item).collect()).await
    }

    /// Moves what was pushed out of what counts, where a crash left some.
    ///
    /// # Errors
    /// The file system's.
    pub async fn put_aside(&self, id: StateId) -> Result<(), StateError> {
        let first: Option<i64> =
            sqlx::query_scalar("SELECT MIN(seq) FROM segment WHERE state = ? AND pushed_us IS NULL")
                .bind(id.as_bytes().to_vec())
                .fetch_one(self.pool())
                .await?;
        let next = first.map_or(self.chain(id).await?.sealed_seq + 1, i64::unsigned_abs);
        let sealing = self.folder(id).sealing();
        let mut left = super::blocking(move || items(&sealing).map_err(StateError::io("list", &sealing))).await?;
        left.retain(|item| item.seq < next);
        self.move_aside(id, left).await
    }

    async fn move_aside(&self, id: StateId, items: Vec<Item>) -> Result<(), StateError> {
        let (folder, usage) = (self.folder(id), self.usage_of(id));
        let freed = super::blocking(move || {
            let (sealing, pushed) = (folder.sealing(), folder.pushed());
            fs::create_dir_all(&pushed).map_err(StateError::io("create the folder", &pushed))?;
            let mut freed = 0;
            for item in items {
                let from = sealing.join(item.file_name());
                let bytes = match fs::metadata(&from) {
                    Ok(found) => found.len(),
                    // It was pushed again, from where it is kept.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(StateError::io("look at", &from)(e)),
                };
                rename(&from, &pushed.join(item.file_name())).map_err(StateError::io("move", &from))?;
                if let Some(usage) = &usage {
                    usage.pushed(bytes);
                }
                freed += bytes;
            }
            Ok(freed)
        })
        .await?;
        if freed > 0 {
            sqlx::query("UPDATE state SET used = MAX(0, used - ?) WHERE id = ?")
                .bind(number(freed))
                .bind(id.as_bytes().to_vec())
                .execute(self.pool())
                .await?;
        }
        Ok(())
    }

    /// Drops pushed segments, the oldest first, until what is kept of them has no more than `most` bytes.
    ///
    /// # Errors
    /// The database's or the file system's.
    pub async fn keep(&self, id: StateId, most: u64) -> Result<(), StateError> {
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT seq, held FROM segment WHERE state = ? AND pushed_us IS NOT NULL ORDER BY seq DESC")
                .bind(id.as_bytes().to_vec())
                .fetch_all(self.pool())
                .await?;
        let mut sum = 0_u64;
        let over = rows.iter().find(|(_, held)| {
            sum = sum.saturating_add(held.unsigned_abs());
            sum > most
        });
        let Some((last, _)) = over else { return Ok(()) };
        let upto = last.unsigned_abs();
        // The rows first: content without a row is nothing, and goes here or at the next time.
        sqlx::query("DELETE FROM segment WHERE state = ? AND pushed_us IS NOT NULL AND seq <= ?")
            .bind(id.as_bytes().to_vec())
            .bind(number(upto))
            .execute(self.pool())
            .await?;
        let pushed = self.folder(id).pushed();
        super::blocking(move || {
            for item in items(&pushed).map_err(StateError::io("list", &pushed))? {
                if item.seq <= upto {
                    let path = pushed.join(item.file_name());
                    fs::remove_file(&path).map_err(StateError::io("remove", &path))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The repository lost what was pushed: all that is still here is to be pushed again. Says which is the first of it,
    /// or of what will be sealed next.
    ///
    /// # Errors
    /// The database's.
    pub async fn push_again(&self, id: StateId) -> Result<u64, StateError> {
        let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE segment SET pushed_us = NULL WHERE state = ?")
            .bind(id.as_bytes().to_vec())
            .execute(&mut *tx)
            .await?;
        let first: Option<i64> = sqlx::query_scalar("SELECT MIN(seq) FROM segment WHERE state = ?")
            .bind(id.as_bytes().to_vec())
            .fetch_one(&mut *tx)
            .await?;
        let sealed: i64 = sqlx::query_scalar("SELECT sealed_seq FROM chain WHERE state = ?")
            .bind(id.as_bytes().to_vec())
            .fetch_one(&mut *tx)
            .await?;
        let first = first.unwrap_or(sealed + 1);
        sqlx::query("UPDATE chain SET pushed_seq = MIN(pushed_seq, ?) WHERE state = ?")
            .bind(first - 1)
            .bind(id.as_bytes().to_vec())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(first.unsigned_abs())
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
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StateError::io("remove", &path)(e));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    /// Writes down how a push ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_synced(&self, id: StateId, error: Option<&str>) -> Result<(), StateError> {
        let now = error.is_none().then(|| micros(SystemTime::now()));
        sqlx::query("UPDATE chain SET error = ?, synced_us = COALESCE(?, synced_us) WHERE state = ?")
            .bind(error.map(str::to_owned))
            .bind(now)
            .bind(id.as_bytes().to_vec())
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Writes down which other writers went on from the same place.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_forks(&self, id: StateId, forks: &[Fork]) -> Result<(), StateError> {
        let text = serde_json::to_string(forks).unwrap_or_else(|_| "[]".to_owned());
        sqlx::query("UPDATE chain SET forks = ? WHERE state = ?")
            .bind(text)
            .bind(id.as_bytes().to_vec())
            .execute(self.pool())
            .await?;
        Ok(())
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

    /// The synced states.
    ///
    /// # Errors
    /// The database's.
    pub async fn synced(&self) -> Result<Vec<State>, StateError> {
        self.of_class(super::StateClass::Synced).await
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

fn hash(mut from: impl Read) -> std::io::Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
