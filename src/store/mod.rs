//! Owns the local content-addressed store: an OCI image layout at rest, with a database beside it.
//!
//! ```text
//! HOME/store/{oci-layout, index.json, blobs/<algorithm>/<hex>}   what any OCI tool reads
//! HOME/ingest/       temporary files, partial pulls and open uploads, on the same device
//! HOME/leases/       what writers under way depend on, one file each
//! HOME/store.lock    shared by writers for moments, exclusive for a collection
//! HOME/db/           vyr.sqlite (the listing), index.lock (who rewrites index.json)
//! ```
//!
//! Three orders keep it whole:
//! * a write is blobs (fsynced), then the database's commit, then index.json; a removal is the reverse. Killed at any
//!   point, what is listed is there; index.json, if behind, is made again at the next open;
//! * locks are taken in the order store.lock, database, index.lock, and never backwards;
//! * a digest is noted in a [`Lease`] before its presence is relied on, and a [`Pin`] holds what a run uses: a
//!   collection keeps both, and all they reach.

mod batch;
mod db;
mod disk;
mod error;
mod export;
mod gc;
mod graph;
mod import;
mod index;
mod layout;
mod lease;
mod manifest;
mod mend;
mod rebuild;
mod repositories;
mod rows;
mod source;
mod survey;
mod upload;
mod writer;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use db::{Entry, Origin, Store, Target};
pub use error::StoreError;
pub use export::{Exported, Loose};
pub use gc::{GcOptions, GcReport, Removed, RemovedKind};
pub use layout::{Layout, Pin};
pub use lease::Lease;
pub use mend::{Expected, Referred, is_no_signature, mend_database};
pub use repositories::{Checked, Shown, own_name};
pub use source::{LayoutSource, SourceBlob};
pub use survey::{Listed, Survey, Taken};
pub use upload::OpenUpload;
pub use writer::{BlobWriter, Progress};

/// The module's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What the store takes a manifest to name, each with its size: for fuzzing, which holds that against what runs are made of.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn edges_of(bytes: &[u8], media_type: Option<&str>) -> Result<Vec<(crate::oci::Digest, u64)>> {
    let parsed = manifest::Parsed::read(&crate::oci::sha256(bytes), bytes, media_type)?;
    Ok(parsed.edges.into_iter().map(|edge| (edge.digest, edge.size)).collect())
}
