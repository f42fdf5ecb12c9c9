//! Owns the segments whose content is here: those to be pushed, and those that were and are kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::time::SystemTime;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::chain::{optional, whole};
use super::changeset::OutboxTar;
use super::db::{micros, number, time};
use super::outbox::{Item, items, rename};
use super::segment::{Segment, SegmentKind, WriterId};
use super::{Folder, State, StateError, StateId, States};
use crate::oci::Digest;

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

/// Of a row with the columns `n`, `bytes` and `oldest`.
pub(super) fn pending(row: &SqliteRow) -> Result<Pending, StateError> {
    Ok(Pending {
        segments: whole(row, "n")?,
        bytes: whole(row, "bytes")?,
        oldest: row.try_get::<Option<i64>, _>("oldest")?.map(time),
    })
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
pub struct Drain {
    _turn: File,
    /// Nobody removes the state meanwhile.
    _user: File,
}

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
        let folder = self.folder(id);
        let user = super::lock::user(&folder.users_lock())?;
        Ok(super::lock::alone(&folder.sync_lock())?.map(|turn| Drain { _turn: turn, _user: user }))
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
        pending(&row)
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
}
