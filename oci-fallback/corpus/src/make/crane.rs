//! Images by crane, which makes them in a registry: `append` the layers, `mutate` the config, `pull` as a layout.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Workshop, command};
use crate::case::{Case, Compression, Types};
use crate::oci;

pub(super) fn make(workshop: &Workshop<'_>, case: &Case, made: &Path) -> Result<()> {
    let (kit, config) = (workshop.kit, &case.config);
    ensure!(config.volumes.is_empty() && config.stop_signal.is_empty(), "crane sets neither volumes nor a stop signal");
    let scratch = workshop.cache.scratch()?;
    let mut words: Vec<String> = vec!["append".into()];
    if case.types == Types::Oci {
        words.push("--oci-empty-base".into());
    }
    for (number, layer) in case.layers.iter().enumerate() {
        let file = scratch.path().join(format!("{number}.tar"));
        workshop.layers.write(layer, &file)?;
        if case.compression != Compression::None {
            let packed = file.with_extension("packed");
            let mut out = std::fs::File::create(&packed)?;
            oci::copy_compressed(std::fs::File::open(&file)?, &mut out, case.compression)?;
            std::fs::remove_file(&file)?;
            words.extend(["--new_layer".into(), packed.display().to_string()]);
        } else {
            words.extend(["--new_layer".into(), file.display().to_string()]);
        }
    }
    let name = format!("{}/{}:made", workshop.registry()?.host(), case.name);
    words.extend(["--new_tag".into(), name.clone()]);
    kit.run("crane", &words)?;
    let mut words: Vec<String> = vec!["mutate".into(), name.clone(), "--tag".into(), name.clone()];
    let mut add = |option: &str, value: &str| words.push(format!("--{option}={value}"));
    // Lists are read as CSV.
    let quoted = |list: &[String]| -> String {
        list.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect::<Vec<_>>().join(",")
    };
    for (option, list) in [("entrypoint", &config.entrypoint), ("cmd", &command(config))] {
        if !list.is_empty() {
            add(option, &quoted(list));
        }
    }
    config.env.iter().for_each(|(name, value)| add("env", &format!("{name}={value}")));
    config.labels.iter().for_each(|(name, value)| add("label", &format!("{name}={value}")));
    config.ports.iter().for_each(|port| add("exposed-ports", port));
    for (option, value) in [("user", &config.user), ("workdir", &config.workdir)] {
        if !value.is_empty() {
            add(option, value);
        }
    }
    add("set-platform", &format!("linux/{}", oci::architecture()));
    kit.run("crane", &words)?;
    kit.run("crane", &["pull", "--format=oci", &name, &made.display().to_string()])?;
    Ok(())
}
