//! Owns the container that runs where an artifact's Wasm can't: from its manifest in the store to what can be started, and
//! one run of it. What a container is made of and kept in is `vyr-oci-fallback`'s.

mod keep;
mod prepare;
mod run;
mod view;

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use vyr_oci_fallback::engine::Choice;
use vyr_oci_fallback::snapshot::Rootfs;

pub(super) use keep::collect;
pub(super) use prepare::{instead, prove, proven, requested};
pub use run::Options;
pub(super) use run::execute;
pub use view::ImageView;
pub(super) use view::describe;

use crate::fallback::Fallback;

/// An image that can be started: its layers unpacked and held, its config read.
#[derive(Debug)]
pub(super) struct Image {
    rootfs: Rootfs,
    config: ImageConfiguration,
    fallback: Fallback,
    /// What runs it.
    engine: Arc<Choice>,
}

impl Image {
    pub(super) fn fallback(&self) -> &Fallback {
        &self.fallback
    }
}
