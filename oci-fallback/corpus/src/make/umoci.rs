//! Images by umoci: layers as archives, the config by its own command.

use std::path::Path;

use anyhow::Result;

use super::{Workshop, command};
use crate::case::{Case, Compression};
use crate::oci::TAG;

pub(super) fn make(workshop: &Workshop<'_>, case: &Case, made: &Path) -> Result<()> {
    let kit = workshop.kit;
    let image = format!("{}:{TAG}", made.display());
    kit.run("umoci", &["init", "--layout", &made.display().to_string()])?;
    kit.run("umoci", &["new", "--image", &image])?;
    let scratch = workshop.cache.scratch()?;
    let tar = scratch.path().join("layer.tar");
    let compression = match case.compression {
        Compression::Gzip | Compression::Multi => "gzip",
        Compression::Zstd => "zstd",
        Compression::None => "none",
    };
    for layer in &case.layers {
        workshop.layers.write(layer, &tar)?;
        let file = tar.display().to_string();
        kit.run("umoci", &["raw", "add-layer", "--image", &image, "--compress", compression, &file])?;
    }
    let config = &case.config;
    let mut words: Vec<String> = vec!["config".into(), "--image".into(), image];
    let mut add = |name: &str, value: &str| words.extend([format!("--config.{name}"), value.to_owned()]);
    config.entrypoint.iter().for_each(|word| add("entrypoint", word));
    command(config).iter().for_each(|word| add("cmd", word));
    config.env.iter().for_each(|(name, value)| add("env", &format!("{name}={value}")));
    config.volumes.iter().for_each(|path| add("volume", path));
    config.labels.iter().for_each(|(name, value)| add("label", &format!("{name}={value}")));
    config.ports.iter().for_each(|port| add("exposedports", port));
    for (name, value) in [("user", &config.user), ("workingdir", &config.workdir), ("stopsignal", &config.stop_signal)]
    {
        if !value.is_empty() {
            add(name, value);
        }
    }
    kit.run("umoci", &words)?;
    kit.run("umoci", &["gc", "--layout", &made.display().to_string()])?;
    Ok(())
}
