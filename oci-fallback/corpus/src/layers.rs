//! Owns the layers as plain tars, made once and kept compressed, shared by every image that has them.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::{Cache, key};
use crate::case::Layer;
use crate::debian::Debian;
use crate::kit::Kit;
use crate::{entries, programs, tree};

/// Path, program and target.
const BUSYBOX: [(&str, &str, &str); 2] = [("bin/busybox", "busybox", ""), ("bin/sh", "", "busybox")];

/// The makers of layers.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    cache: &'a Cache,
    kit: &'a Kit,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(cache: &'a Cache, kit: &'a Kit) -> Self {
        Self { cache, kit }
    }

    /// The tar of a layer, compressed with zstd, made unless it's there.
    fn file(&self, layer: &Layer) -> Result<PathBuf> {
        let path = self.cache.path(Path::new("layers").join(key(layer)? + ".tar.zst"));
        self.cache.once(path, |made| {
            let mut out = zstd::Encoder::new(File::create(made)?, 3)?;
            let mut builder = tar::Builder::new(&mut out);
            builder.follow_symlinks(false);
            self.fill(layer, &mut builder)?;
            builder.finish()?;
            drop(builder);
            out.finish()?.flush()?;
            Ok(())
        })
    }

    fn fill<W: std::io::Write>(&self, layer: &Layer, builder: &mut tar::Builder<W>) -> Result<()> {
        let debian = Debian::new(self.cache, self.kit);
        if layer.base {
            tree::add(builder, &debian.base()?)?;
        }
        if !layer.packages.is_empty() || !layer.run.is_empty() {
            debian.install(&layer.packages, &layer.run, &layer.only, |folder| tree::add(builder, folder))?;
        }
        let busybox = layer.busybox.then(|| BUSYBOX.map(entries::plain)).into_iter().flatten();
        for entry in busybox.collect::<Vec<_>>().iter().chain(&layer.files) {
            entries::add(builder, entry, &|name| programs::program(self.cache, self.kit, name))?;
        }
        Ok(())
    }

    /// Opens the plain tar.
    pub(crate) fn open(&self, layer: &Layer) -> Result<impl Read + use<>> {
        Ok(zstd::Decoder::new(File::open(self.file(layer)?)?)?)
    }

    /// Writes the plain tar to a file, for makers that read one.
    pub(crate) fn write(&self, layer: &Layer, to: &Path) -> Result<()> {
        let mut file = File::create(to).with_context(|| to.display().to_string())?;
        std::io::copy(&mut self.open(layer)?, &mut file)?;
        Ok(())
    }
}
