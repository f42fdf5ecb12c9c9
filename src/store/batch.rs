//! Owns a batch of changes: blobs first, then one database commit, then index.json once.

use std::collections::HashSet;
use std::time::SystemTime;

use super::db::Store;
use super::layout::Layout;
use super::lease::Lease;
use super::manifest::{self, EdgeKind, Parsed};
use super::repositories::{own_name, show_blob};
use super::rows::{NewManifest, Put, insert_tag};
use super::{Result, StoreError};
use crate::oci::{Descriptor, Digest, Hasher, MAX_MANIFEST_BYTES};

/// Changes that become visible together. Manifests' bytes are on disk when [`Batch::put_manifest`] returns; they are
/// listed once [`Batch::commit`] has returned. The lease must live until then.
#[derive(Debug)]
#[must_use = "nothing is listed before the commit"]
pub struct Batch {
    store: Store,
    manifests: Vec<NewManifest>,
    tags: Vec<(String, Digest, SystemTime)>,
    places: Vec<(String, Digest)>,
    blobs: Vec<(String, Digest)>,
    claims: Vec<(String, Digest)>,
}

impl Batch {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            manifests: Vec::new(),
            tags: Vec::new(),
            places: Vec::new(),
            blobs: Vec::new(),
            claims: Vec::new(),
        }
    }

    /// Puts a manifest: see [`Store::put_manifest`].
    ///
    /// # Errors
    /// As [`Store::put_manifest`].
    pub async fn put_manifest(
        &mut self,
        lease: &Lease,
        expected: Option<&Digest>,
        bytes: &[u8],
        media_type: Option<&str>,
        origin: Option<&str>,
    ) -> Result<Descriptor> {
        let (layout, lease, expected) = (self.store.layout().clone(), lease.clone(), expected.cloned());
        let (bytes, media_type, origin) = (bytes.to_vec(), media_type.map(str::to_owned), origin.map(str::to_owned));
        let new = self
            .store
            .waiting(move || {
                let parsed = put(&layout, &lease, expected.as_ref(), &bytes, media_type.as_deref())?;
                Ok(NewManifest { parsed, origin, at: SystemTime::now() })
            })
            .await?;
        let descriptor = new.parsed.descriptor();
        self.manifests.push(new);
        Ok(descriptor)
    }

    /// Adds what [`put`] made elsewhere.
    pub(super) fn add(&mut self, parsed: Parsed) {
        self.manifests.push(NewManifest { parsed, origin: None, at: SystemTime::now() });
    }

    /// Records that whoever brought a manifest of this batch or of the store says that it is from `repository`. That it was
    /// pulled from there or pushed there is told to [`Batch::put_manifest`].
    pub fn claim(&mut self, digest: &Digest, repository: &str) {
        self.claims.push((repository.to_owned(), digest.clone()));
    }

    /// Names a manifest of this batch or of the store.
    ///
    /// # Errors
    /// [`StoreError::BadName`]; that there's no such manifest shows at the commit.
    pub fn tag(&mut self, name: &str, digest: &Digest) -> Result<()> {
        manifest::check_name(name)?;
        self.tags.push((name.to_owned(), digest.clone(), SystemTime::now()));
        Ok(())
    }

    /// Shows a manifest of this batch in a repository of the node's own registry.
    pub fn place(&mut self, repository: &str, digest: &Digest) {
        self.places.push((repository.to_owned(), digest.clone()));
    }

    /// Shows all manifests of this batch in a repository of the node's own registry, with their blobs, and under its
    /// name each tag that they have in the batch.
    ///
    /// # Errors
    /// [`StoreError::BadName`].
    pub fn show_in(&mut self, repository: &str) -> Result<()> {
        for NewManifest { parsed, .. } in &self.manifests {
            self.places.push((repository.to_owned(), parsed.digest.clone()));
            for edge in parsed.edges.iter().filter(|edge| edge.kind != EdgeKind::Manifest) {
                self.blobs.push((repository.to_owned(), edge.digest.clone()));
            }
        }
        let named: Vec<_> = self
            .tags
            .iter()
            .filter_map(|(name, digest, _)| Some((name.rsplit_once(':')?.1.to_owned(), digest.clone())))
            .collect();
        named.iter().try_for_each(|(tag, digest)| self.tag(&own_name(repository, tag), digest))
    }

    /// How many changes wait for the commit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.manifests.len() + self.tags.len() + self.places.len() + self.claims.len()
    }

    /// Whether nothing waits for the commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Commits: after this the changes outlive a crash, and index.json shows them.
    ///
    /// # Errors
    /// [`StoreError::NoArtifact`] for a name whose manifest isn't there (nothing of the batch is listed then), or the
    /// disk's own.
    #[tracing::instrument(skip_all, fields(manifests = self.manifests.len(), tags = self.tags.len()))]
    pub async fn commit(mut self) -> Result<()> {
        if let Some(generation) = self.flush().await? {
            self.store.write_index(generation).await?;
        }
        Ok(())
    }

    /// As [`Batch::commit`], but where the listing is long index.json follows later, with the changes that come meanwhile: to
    /// write all of it for each of many would take the time that they have.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    #[tracing::instrument(skip_all, fields(manifests = self.manifests.len(), tags = self.tags.len()))]
    pub async fn commit_soon(mut self) -> Result<()> {
        if let Some(generation) = self.flush().await? {
            self.store.write_index_soon(generation).await?;
        }
        Ok(())
    }

    /// Commits what there is to the database and leaves index.json for later; returns the generation.
    pub(super) async fn flush(&mut self) -> Result<Option<i64>> {
        if self.is_empty() {
            return Ok(None);
        }
        let store = &self.store;
        let _gate = store.gate().await?;
        let mut tx = store.begin().await?;
        let (mut moved, mut anew) = (false, HashSet::new());
        for new in &self.manifests {
            match new.insert(&mut tx).await.map_err(|e| store.failed(e))? {
                Put::New => drop(anew.insert(&new.parsed.digest)),
                Put::Known { moved: elsewhere } => moved |= elsewhere,
            }
        }
        for (repository, digest) in &self.claims {
            let claimed = sqlx::query(
                "INSERT INTO origins (digest, repository) SELECT digest, ?2 FROM manifests WHERE digest = ?1
                 ON CONFLICT DO NOTHING",
            );
            let claimed = claimed.bind(digest.as_ref()).bind(repository).execute(&mut *tx).await;
            moved |= claimed.map_err(|e| store.failed(e))?.rows_affected() > 0 && !anew.contains(digest);
        }
        for (repository, digest) in &self.places {
            sqlx::query("INSERT INTO repository_manifests (repository, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                .bind(repository)
                .bind(digest.as_ref())
                .execute(&mut *tx)
                .await
                .map_err(|e| store.failed(e))?;
        }
        for (repository, digest) in &self.blobs {
            show_blob(&mut *tx, repository, digest).await.map_err(|e| store.failed(e))?;
        }
        for (name, digest, at) in &self.tags {
            if !insert_tag(&mut tx, name, digest, *at).await.map_err(|e| store.failed(e))? {
                return Err(StoreError::NoArtifact(digest.to_string()));
            }
        }
        let generation = store.commit(tx).await?;
        if moved {
            store.origins_changed();
        }
        self.manifests.clear();
        self.tags.clear();
        self.places.clear();
        self.blobs.clear();
        self.claims.clear();
        Ok(Some(generation))
    }
}

/// Puts a manifest's bytes in their place, after its blobs; it isn't listed yet. Blocks.
pub(super) fn put(
    layout: &Layout,
    lease: &Lease,
    expected: Option<&Digest>,
    bytes: &[u8],
    media_type: Option<&str>,
) -> Result<Parsed> {
    // Before the hash: what is too large isn't worth one.
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(StoreError::TooLarge { what: "the manifest".into(), limit: MAX_MANIFEST_BYTES });
    }
    let mut hasher = expected.map_or_else(|| Ok(Hasher::sha256()), super::layout::hasher)?;
    hasher.update(bytes);
    let digest = hasher.finish();
    if let Some(wanted) = expected.filter(|d| **d != digest) {
        return Err(StoreError::Mismatch { what: "the manifest".into(), wanted: wanted.clone(), found: digest });
    }
    let parsed = Parsed::read(&digest, bytes, media_type)?;
    // Noted first, then looked for: what is found then stays until the lease ends, and by then it's reachable.
    lease.note(std::iter::once(&digest).chain(parsed.edges.iter().map(|e| &e.digest)))?;
    // A wrong size is refused for children and subjects as well: other tools refuse a whole layout that has one.
    let subject = parsed.subject.iter().map(|s| (s, parsed.subject_size, true));
    for (named, size, may_be_absent) in
        parsed.edges.iter().map(|e| (&e.digest, e.size, e.may_be_absent())).chain(subject)
    {
        match layout.blob_size(named)? {
            Some(found) if found != size => {
                return Err(StoreError::WrongSize {
                    what: format!("{named}, which {digest} names,"),
                    wanted: size,
                    found,
                });
            }
            None if !may_be_absent => return Err(StoreError::MissingBlob { manifest: digest, blob: named.clone() }),
            Some(_) | None => {}
        }
    }
    if layout.blob_size(&digest)? != Some(parsed.size) {
        let mut writer = layout.writer(Some(&digest), None)?;
        writer.add(bytes)?;
        writer.commit(lease)?;
    }
    Ok(parsed)
}
