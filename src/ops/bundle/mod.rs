//! Owns bundles: artifacts in one tar, an OCI image layout, with all that is needed to run them where there is no network.

mod load;
mod save;

pub use load::{LoadRequest, Loaded, LoadedArtifact, Offer, load};
pub use save::{SaveRequest, Saved, save};
