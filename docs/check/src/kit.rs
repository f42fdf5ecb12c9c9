//! Owns the programs that pages use: where they are, in one folder that a session's PATH begins with.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// What the pages use of `envs/tools`, besides what a Debian system has anyway.
const TOOLS: [&str; 10] =
    ["oras", "cosign", "crane", "skopeo", "umoci", "docker-registry", "otelcol", "busybox", "unshare", "strace"];
/// A Python of its own, which finds its packages by the path that it is called by: a link to it would have none.
const PYTHON: &str = "python-grpc";

/// The path of a tool of `envs/tools`.
///
/// # Errors
/// When it is missing, with the command that installs it.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let script = crate::project()?.join("envs/tools");
    let output = Command::new(&script).args(["path", name]).output().with_context(|| script.display().to_string())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The folders that all sessions share.
#[derive(Debug)]
pub(crate) struct Kit {
    root: TempDir,
    pub(crate) busybox: PathBuf,
    pub(crate) unshare: PathBuf,
}

impl Kit {
    /// Finds the tools, builds the guests that are named, and puts links to them where pages look.
    pub(crate) fn find(vyr: Option<&Path>, guests: &[String]) -> Result<Self> {
        let vyr = vyr.map_or_else(|| Ok(std::env::current_exe()?.with_file_name("vyr")), std::path::absolute)?;
        ensure!(vyr.exists(), "{} isn't there; run: cargo build -p vyr", vyr.display());
        let root = tempfile::Builder::new().prefix("docs-check").tempdir()?;
        for folder in ["bin", "guests"] {
            std::fs::create_dir(root.path().join(folder))?;
        }
        symlink(vyr, root.path().join("bin/vyr"))?;
        for name in TOOLS {
            symlink(tool(name)?, root.path().join("bin").join(name))?;
        }
        let python = root.path().join("bin").join(PYTHON);
        std::fs::write(&python, format!("#!/bin/sh\nexec '{}' \"$@\"\n", tool(PYTHON)?.display()))?;
        std::fs::set_permissions(&python, Permissions::from_mode(0o755))?;
        for guest in guests {
            symlink(vyr_guests::build(guest)?, root.path().join(format!("guests/{guest}.wasm")))?;
        }
        Ok(Self { busybox: tool("busybox")?, unshare: tool("unshare")?, root })
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn guests(&self) -> PathBuf {
        self.root.path().join("guests")
    }

    /// The programs of the kit, of Rust's toolchain and of the system, in that order.
    pub(crate) fn path(&self) -> String {
        let bin = self.root.path().join("bin");
        let cargo = cargo_home().join("bin");
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        format!("{}:{}:{system}", bin.display(), cargo.display())
    }
}

fn home(variable: &str, folder: &str) -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(folder);
    std::env::var_os(variable).map_or_else(home, PathBuf::from)
}

pub(crate) fn cargo_home() -> PathBuf {
    home("CARGO_HOME", ".cargo")
}

pub(crate) fn rustup_home() -> PathBuf {
    home("RUSTUP_HOME", ".rustup")
}
