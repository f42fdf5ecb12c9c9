//! Owns how a case's image is made: by the maker that the case names, into a layout of its own, once.

mod buildah;
mod crane;
mod hand;
mod umoci;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::{Cache, key};
use crate::case::{Case, Config, Maker};
use crate::kit::Kit;
use crate::layers::Layers;
use crate::oci;
use crate::registry::Registry;

pub(crate) use hand::manifest;

/// What the makers share.
#[derive(Debug)]
pub(crate) struct Workshop<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) kit: &'a Kit,
    pub(crate) layers: Layers<'a>,
    /// For makers that only push; started when the first one needs it.
    registry: std::cell::OnceCell<Registry>,
}

impl<'a> Workshop<'a> {
    pub(crate) fn new(cache: &'a Cache, kit: &'a Kit) -> Self {
        Self { cache, kit, layers: Layers::new(cache, kit), registry: std::cell::OnceCell::new() }
    }

    fn registry(&self) -> Result<&Registry> {
        if self.registry.get().is_none() {
            let registry = Registry::start(self.kit, self.cache)?;
            return Ok(self.registry.get_or_init(|| registry));
        }
        self.registry.get().context("it was just there")
    }

    /// The layout of a case's image, whose only tag is [`oci::TAG`].
    pub(crate) fn image(&self, case: &Case) -> Result<PathBuf> {
        let made_of = (case.maker, case.types, case.compression, case.shape, &case.layers, &case.build, &case.config);
        let name = format!("{}-{}", case.name, key(&made_of)?);
        let path = self.cache.path(Path::new("images").join(name));
        self.cache.once(path, |made| {
            match case.maker {
                Maker::Hand => hand::make(self, case, made)?,
                Maker::Umoci => umoci::make(self, case, made)?,
                Maker::Buildah => buildah::make(self, case, made)?,
                Maker::Crane => crane::make(self, case, made)?,
            }
            // One name, whatever the maker calls it.
            let entry = oci::named(made)?;
            oci::Layout::create(made)?.name(entry)?;
            self.share(made)
        })
    }

    /// Blobs that several images have are on disk once.
    fn share(&self, layout: &Path) -> Result<()> {
        for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
            let entry = entry?;
            let shared = self.cache.path(Path::new("blobs").join(entry.file_name()));
            if shared.exists() {
                std::fs::remove_file(entry.path())?;
                std::fs::hard_link(&shared, entry.path())?;
            } else {
                std::fs::hard_link(entry.path(), &shared)?;
            }
        }
        Ok(())
    }
}

/// What a config's command is in the form that images have.
fn command(config: &Config) -> Vec<String> {
    if config.cmd_shell.is_empty() {
        return config.cmd.clone();
    }
    vec!["/bin/sh".into(), "-c".into(), config.cmd_shell.clone()]
}
