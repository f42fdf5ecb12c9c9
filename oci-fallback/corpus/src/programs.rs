//! Owns the static programs that some layers hold: busybox of Debian, and small ones built from `programs/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Cache, key};
use crate::kit::{Kit, run};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// The path of the program `name`: `busybox`, or a file of `programs/`, which is compiled.
pub(crate) fn program(cache: &Cache, kit: &Kit, name: &str) -> Result<PathBuf> {
    if name == "busybox" {
        return Ok(kit.path("busybox")?.to_owned());
    }
    let file = source(name);
    let text = std::fs::read(&file).with_context(|| format!("no program {}", file.display()))?;
    let path = cache.path(Path::new("programs").join(format!("{name}-{}", key(&text)?)));
    cache.once(path, |made| {
        let command = match file.extension().and_then(|extension| extension.to_str()) {
            Some("c") => {
                let mut command = Command::new("cc");
                command.args(["-static", "-O2", "-s", "-pthread", "-o"]).arg(made).arg(&file);
                command
            }
            Some("rs") => {
                let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
                let mut add = Command::new("rustup");
                add.args(["target", "add", &target]);
                run(add)?;
                let mut command = Command::new("rustc");
                command.args(["--edition", "2024", "-O", "-C", "strip=symbols", "--target", &target, "-o"]);
                command.arg(made).arg(&file);
                command
            }
            Some("go") => {
                let mut command = Command::new(go()?);
                command.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(made).arg(&file);
                let folder = cache.path("programs/go-build");
                command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder).env("GOFLAGS", "");
                command
            }
            _ => bail!("nobody knows how to build {name}"),
        };
        run(command).with_context(|| format!("build {name}"))?;
        Ok(())
    })
}

/// Go is where it is installed by itself, or where `envs/tools` has put it.
fn go() -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("go")).collect();
    places.push("/usr/local/go/bin/go".into());
    let output = Command::new(crate::kit::script()).args(["path", "go"]).output()?;
    places.push(String::from_utf8_lossy(&output.stdout).trim().into());
    places.into_iter().find(|path| path.is_file()).context("Go is missing; run: envs/tools")
}
