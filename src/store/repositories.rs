//! Owns what the node's own registry shows: which repository has which manifests, blobs and tags. The content is the
//! store's, once, however many repositories show it.

use std::time::{Duration, SystemTime};

use sqlx::{Sqlite, Transaction};

use super::Result;
use super::db::Store;
use super::manifest::{EdgeKind, Parsed};
use super::rows::{millis, parse_digest, time};
use crate::oci::{Descriptor, Digest, MediaType, OWN_HOST};

/// How long a blob that was pushed, and that no manifest names yet, is kept from a collection.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// A blob that is asked after counts as fresh again when it has been here this long: who finds it won't push it.
const RENEW: Duration = Duration::from_secs(3600);

/// The name in the store of a tag of the node's own registry.
#[must_use]
pub fn own_name(repository: &str, tag: &str) -> String {
    format!("{OWN_HOST}/{repository}:{tag}")
}

/// A manifest as a repository shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, as it was pushed.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What a manifest needs of the repository that it's pushed to.
#[derive(Debug)]
pub struct Checked {
    /// What it's about.
    pub subject: Option<Digest>,
    /// What it names and the repository doesn't have.
    pub absent: Vec<Digest>,
}

type Line = (String, String, i64);

fn shown((digest, media_type, size): Line) -> Result<Shown> {
    Ok(Shown { digest: parse_digest(&digest)?, media_type, size: u64::try_from(size).unwrap_or(0) })
}

/// Writes that `repository` shows a blob, from now.
pub(super) async fn show_blob<'c>(
    to: impl sqlx::Executor<'c, Database = Sqlite>,
    repository: &str,
    digest: &Digest,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO repository_blobs (repository, digest, added_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET added_at = excluded.added_at",
    );
    query.bind(repository).bind(digest.as_ref()).bind(millis(SystemTime::now())).execute(to).await?;
    Ok(())
}

impl Store {
    /// Reads a manifest, and looks in `repository` for the blobs and manifests that it names. Layers that must not be
    /// distributed may be absent, and so may a subject (distribution spec 1.1, "Pushing Manifests with Subject").
    ///
    /// # Errors
    /// [`StoreError::Manifest`](super::StoreError), `TooLarge`, or the disk's own.
    pub async fn check_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        bytes: &[u8],
        media_type: Option<&str>,
    ) -> Result<Checked> {
        let parsed = Parsed::read(digest, bytes, media_type)?;
        let mut absent = Vec::new();
        // Each looked up by itself: a list of all that the repository has would be made for every manifest.
        for (manifests, query) in [
            (
                true,
                "SELECT wanted.value FROM json_each(?1) wanted WHERE NOT EXISTS \
                 (SELECT 1 FROM repository_manifests r WHERE r.repository = ?2 AND r.digest = wanted.value)",
            ),
            (
                false,
                "SELECT wanted.value FROM json_each(?1) wanted WHERE NOT EXISTS \
                 (SELECT 1 FROM repository_blobs r WHERE r.repository = ?2 AND r.digest = wanted.value)",
            ),
        ] {
            let wanted: Vec<&str> = parsed
                .edges
                .iter()
                .filter(|e| (e.kind == EdgeKind::Manifest) == manifests && (manifests || !e.may_be_absent()))
                .map(|e| e.digest.as_ref())
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let list = serde_json::Value::from(wanted).to_string();
            let found: Vec<String> = sqlx::query_scalar(query)
                .bind(list)
                .bind(repository)
                .fetch_all(self.pool())
                .await
                .map_err(|e| self.failed(e))?;
            for digest in found {
                absent.push(parse_digest(&digest)?);
            }
        }
        Ok(Checked { subject: parsed.subject, absent })
    }

    /// Shows a blob, which is in the store and held by a lease, in `repository`. A collection that goes on knows the lease, not
    /// what is shown meanwhile: its end is waited for, while the lease holds.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn show_blob(&self, repository: &str, digest: &Digest) -> Result<()> {
        let _gate = self.gate().await?;
        show_blob(self.pool(), repository, digest).await.map_err(|e| self.failed(e))
    }

    /// Whether `repository` shows a blob.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn shows_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        Ok(self.shown_since(repository, digest).await?.is_some())
    }

    async fn shown_since(&self, repository: &str, digest: &Digest) -> Result<Option<i64>> {
        sqlx::query_scalar("SELECT added_at FROM repository_blobs WHERE repository = ?1 AND digest = ?2")
            .bind(repository)
            .bind(digest.as_ref())
            .fetch_optional(self.pool())
            .await
            .map_err(|e| self.failed(e))
    }

    /// As [`Store::shows_blob`], for who relies on it, as a client does that needn't push it then: a collection keeps it for a
    /// while. Waits for one that goes on.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn promises_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let Some(added) = self.shown_since(repository, digest).await? else { return Ok(false) };
        if self.is_read_only() || time(added).elapsed().is_ok_and(|age| age <= RENEW) {
            return Ok(true);
        }
        let _gate = self.gate().await?;
        // A collection that has just ended may have taken it.
        let renewed = sqlx::query("UPDATE repository_blobs SET added_at = ?3 WHERE repository = ?1 AND digest = ?2")
            .bind(repository)
            .bind(digest.as_ref())
            .bind(millis(SystemTime::now()))
            .execute(self.pool())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(renewed.rows_affected() > 0)
    }

    /// The repositories that show a blob.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn repositories_of_blob(&self, digest: &Digest) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT repository FROM repository_blobs WHERE digest = ?1")
            .bind(digest.as_ref())
            .fetch_all(self.pool())
            .await
            .map_err(|e| self.failed(e))
    }

    /// Takes a blob out of `repository`. Says whether it was there.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn hide_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        self.writable()?;
        let gone = sqlx::query("DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2")
            .bind(repository)
            .bind(digest.as_ref())
            .execute(self.pool())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(gone.rows_affected() > 0)
    }

    /// A manifest of `repository` by its digest.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn shown_manifest(&self, repository: &str, digest: &Digest) -> Result<Option<Shown>> {
        let line: Option<Line> = sqlx::query_as(
            "SELECT m.digest, m.media_type, m.size FROM repository_manifests r JOIN manifests m ON m.digest = r.digest
             WHERE r.repository = ?1 AND r.digest = ?2",
        )
        .bind(repository)
        .bind(digest.as_ref())
        .fetch_optional(self.pool())
        .await
        .map_err(|e| self.failed(e))?;
        line.map(shown).transpose()
    }

    /// A manifest of `repository` by its tag.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn shown_tag(&self, repository: &str, tag: &str) -> Result<Option<Shown>> {
        let line: Option<Line> = sqlx::query_as(
            "SELECT m.digest, m.media_type, m.size FROM tags t
             JOIN repository_manifests r ON r.digest = t.digest AND r.repository = ?2
             JOIN manifests m ON m.digest = t.digest WHERE t.name = ?1",
        )
        .bind(own_name(repository, tag))
        .bind(repository)
        .fetch_optional(self.pool())
        .await
        .map_err(|e| self.failed(e))?;
        line.map(shown).transpose()
    }

    /// Takes a manifest out of `repository`, with its tags there. Where nothing else needs it, it leaves the listing,
    /// and its blobs go at the next [`Store::gc`] unless something uses them. Says whether it was there.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn hide_manifest(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let _gate = self.gate().await?;
        let mut tx = self.begin().await?;
        let (from, to) = tag_range(repository);
        let gone = async {
            let gone = sqlx::query("DELETE FROM repository_manifests WHERE repository = ?1 AND digest = ?2")
                .bind(repository)
                .bind(digest.as_ref())
                .execute(&mut *tx)
                .await?
                .rows_affected();
            sqlx::query("DELETE FROM tags WHERE digest = ?1 AND name > ?2 AND name < ?3")
                .bind(digest.as_ref())
                .bind(from)
                .bind(to)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "DELETE FROM manifests WHERE digest = ?1
                 AND NOT EXISTS (SELECT 1 FROM repository_manifests WHERE digest = ?1)
                 AND NOT EXISTS (SELECT 1 FROM tags WHERE digest = ?1)
                 AND NOT EXISTS (SELECT 1 FROM origins WHERE digest = ?1)
                 AND NOT EXISTS (SELECT 1 FROM edges WHERE child = ?1 AND kind = 'manifest')",
            )
            .bind(digest.as_ref())
            .execute(&mut *tx)
            .await?;
            Ok(gone)
        };
        let gone = gone.await.map_err(|e| self.failed(e))?;
        if gone == 0 {
            tx.rollback().await.map_err(|e| self.failed(e))?;
            return Ok(false);
        }
        self.finish(tx).await?;
        Ok(true)
    }

    /// Whether there is anything in `repository`.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn has_repository(&self, repository: &str) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM repository_manifests WHERE repository = ?1)
                OR EXISTS (SELECT 1 FROM repository_blobs WHERE repository = ?1)",
        )
        .bind(repository)
        .fetch_one(self.pool())
        .await
        .map_err(|e| self.failed(e))
    }

    /// At most `limit` tags of `repository` in the order of their bytes, those after `last` where it's given.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn shown_tags(&self, repository: &str, last: Option<&str>, limit: u32) -> Result<Vec<String>> {
        let (from, to) = tag_range(repository);
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT substr(t.name, ?5) FROM tags t
             JOIN repository_manifests r ON r.digest = t.digest AND r.repository = ?1
             WHERE t.name > ?2 AND t.name < ?3 ORDER BY t.name LIMIT ?4",
        )
        .bind(repository)
        .bind(format!("{from}{}", last.unwrap_or_default()))
        .bind(&to)
        .bind(limit)
        .bind(i64::try_from(from.len()).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(self.pool())
        .await
        .map_err(|e| self.failed(e))?;
        Ok(names)
    }

    /// At most `limit` repositories that hold a manifest, in the order of their bytes, those after `last`.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn repositories(&self, last: &str, limit: u32) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT DISTINCT repository FROM repository_manifests WHERE repository > ?1 ORDER BY repository LIMIT ?2",
        )
        .bind(last)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .map_err(|e| self.failed(e))
    }

    /// The manifests of `repository` about `subject`: see [`Store::referrers`].
    ///
    /// # Errors
    /// The disk's own.
    pub async fn shown_referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let mut found = self.referrers(subject, artifact_type).await?;
        let here: Vec<String> = sqlx::query_scalar(
            "SELECT m.digest FROM manifests m JOIN repository_manifests r ON r.digest = m.digest
             WHERE m.subject = ?1 AND r.repository = ?2",
        )
        .bind(subject.as_ref())
        .bind(repository)
        .fetch_all(self.pool())
        .await
        .map_err(|e| self.failed(e))?;
        let here: std::collections::HashSet<&str> = here.iter().map(String::as_str).collect();
        found.retain(|d| here.contains(d.digest().as_ref()));
        for descriptor in &mut found {
            // What an empty type says is nothing.
            if descriptor.artifact_type().as_ref().is_some_and(|t| *t == MediaType::Other(String::new())) {
                descriptor.set_artifact_type(None);
            }
        }
        Ok(found)
    }

    /// The blobs that were pushed not long before `now`: a manifest that names them may be on its way.
    pub(super) async fn fresh_blobs(&self, now: SystemTime) -> Result<Vec<String>> {
        let since = now.checked_sub(FRESH).map_or(0, millis);
        sqlx::query_scalar("SELECT DISTINCT digest FROM repository_blobs WHERE added_at > ?1")
            .bind(since)
            .fetch_all(self.pool())
            .await
            .map_err(|e| self.failed(e))
    }

    /// No repository shows blobs any more that a collection removed.
    pub(super) async fn forget_blobs(&self, gone: impl Iterator<Item = &Digest>) -> Result<()> {
        let list = serde_json::Value::from(gone.map(AsRef::as_ref).collect::<Vec<&str>>()).to_string();
        sqlx::query("DELETE FROM repository_blobs WHERE digest IN (SELECT value FROM json_each(?1))")
            .bind(list)
            .execute(self.pool())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Manifests that were pushed and are about one that isn't there: they came first, and stay.
    pub(super) async fn early_referrers(&self, tx: &mut Transaction<'static, Sqlite>) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT r.digest FROM repository_manifests r JOIN manifests m ON m.digest = r.digest
             WHERE m.subject IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.digest = m.subject)
             UNION SELECT r.digest FROM repository_manifests r JOIN tags t ON t.digest = r.digest
             WHERE t.signs IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.digest = t.signs)",
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(|e| self.failed(e))
    }
}

/// All tags of a repository are between these: `;` follows `:`.
fn tag_range(repository: &str) -> (String, String) {
    (format!("{OWN_HOST}/{repository}:"), format!("{OWN_HOST}/{repository};"))
}
