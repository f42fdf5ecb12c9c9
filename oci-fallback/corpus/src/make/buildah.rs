//! Images by buildah, from a Dockerfile: a layer for each instruction, commands run in the image that is being built.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::Workshop;
use crate::case::{Case, Config, Types};

/// The last instructions of a Dockerfile.
fn instructions(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |instruction: &str, value: String| {
        let _ = writeln!(text, "{instruction} {value}");
    };
    for (name, value) in &config.env {
        line("ENV", format!("{name}={}", json!(value)));
    }
    for (name, value) in &config.labels {
        line("LABEL", format!("{}={}", json!(name), json!(value)));
    }
    for port in &config.ports {
        line("EXPOSE", port.clone());
    }
    for volume in &config.volumes {
        line("VOLUME", json!([volume]).to_string());
    }
    for (instruction, value) in
        [("WORKDIR", &config.workdir), ("USER", &config.user), ("STOPSIGNAL", &config.stop_signal)]
    {
        if !value.is_empty() {
            line(instruction, value.clone());
        }
    }
    if !config.entrypoint.is_empty() {
        line("ENTRYPOINT", json!(config.entrypoint).to_string());
    }
    if !config.cmd.is_empty() {
        line("CMD", json!(config.cmd).to_string());
    }
    if !config.cmd_shell.is_empty() {
        line("CMD", config.cmd_shell.clone());
    }
    text
}

pub(super) fn make(workshop: &Workshop<'_>, case: &Case, made: &Path) -> Result<()> {
    let kit = workshop.kit;
    let scratch = workshop.cache.scratch()?;
    let context = scratch.path().join("context");
    std::fs::create_dir(&context)?;
    let mut text = "FROM scratch\n".to_owned();
    for (number, layer) in case.layers.iter().enumerate() {
        workshop.layers.write(layer, &context.join(format!("{number}.tar")))?;
        let _ = writeln!(text, "ADD {number}.tar /");
    }
    for command in &case.build {
        let _ = writeln!(text, "RUN {command}");
    }
    text += &instructions(&case.config);
    std::fs::write(context.join("Dockerfile"), text)?;
    let place = |name: &str| scratch.path().join(name).display().to_string();
    let store = [
        "--root".to_owned(),
        place("store"),
        "--runroot".into(),
        place("run"),
        "--storage-driver".into(),
        "overlay".into(),
    ];
    let name = format!("{}/{}:built", workshop.registry()?.host(), case.name);
    let format = if case.types == Types::Docker { "docker" } else { "oci" };
    let buildah = |words: &[&str]| {
        let words: Vec<&str> = store.iter().map(String::as_str).chain(words.iter().copied()).collect();
        kit.run("buildah", &words)
    };
    let built = buildah(&[
        "bud",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "--layers",
        "--format",
        format,
        "--tag",
        &name,
        &context.display().to_string(),
    ])
    .and_then(|_| buildah(&["push", "--tls-verify=false", &name, &format!("docker://{name}")]));
    // Its store has mounts and folders that only it may remove.
    let cleared = buildah(&["rmi", "--all", "--force"]);
    built?;
    cleared?;
    kit.run("crane", &["pull", "--format=oci", &name, &made.display().to_string()])?;
    Ok(())
}
