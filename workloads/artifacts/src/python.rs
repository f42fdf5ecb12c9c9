//! Owns the two compilers that come from PyPI: a virtual environment with pinned versions in the user's
//! cache, made at first need, and how they are called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::build::{GuestError, cache, io_at, lock, run};

/// What the environment holds.
pub(crate) const REQUIREMENTS: &str = include_str!("../../requirements.txt");

const INSTALL_PYTHON: &str = "apt-get install python3-venv, or envs/tools";

/// The folder of the virtual environment's commands.
pub(crate) fn environment() -> Result<PathBuf, GuestError> {
    let hash = Sha256::digest(REQUIREMENTS.as_bytes());
    let name = format!("python-{}", hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>());
    let folder = cache().join(&name);
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(folder.join("bin"));
    }
    fs::create_dir_all(cache()).map_err(io_at(&cache()))?;
    let _one_at_a_time = lock(&cache().join(format!(".{name}.lock")))?;
    if complete.is_file() {
        return Ok(folder.join("bin"));
    }
    // An environment can't be moved once made, so it is made in place; the mark says that it's whole.
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), INSTALL_PYTHON)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(io_at(&requirements))?;
    run(
        Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&requirements),
        INSTALL_PYTHON,
    )?;
    fs::write(&complete, "").map_err(io_at(&complete))?;
    Ok(folder.join("bin"))
}

/// C → core module for WASI p1.
pub(crate) fn compile_c(source: &Path, made: &Path) -> Result<(), GuestError> {
    let python = environment()?.join("python");
    let cache = cache().join("zig");
    run(
        Command::new(python)
            .args(["-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-o"])
            .arg(made)
            .arg(source)
            .env("ZIG_GLOBAL_CACHE_DIR", &cache)
            .env("ZIG_LOCAL_CACHE_DIR", &cache),
        INSTALL_PYTHON,
    )?;
    Ok(())
}

/// Python → component of the world `wasi:cli/command`.
pub(crate) fn componentize(source: &Path, made: &Path) -> Result<(), GuestError> {
    let wit = wasi_wit()?;
    let world = format!("wasi:cli/command@{}", cli_version(&wit)?);
    let unusable =
        |why: &str| GuestError::Failed { command: format!("componentize {}", source.display()), output: why.into() };
    let folder = source.parent().ok_or_else(|| unusable("the source has no folder"))?;
    let module = source.file_stem().ok_or_else(|| unusable("the source has no name"))?;
    run(
        Command::new(environment()?.join("componentize-py"))
            .arg("-d")
            .arg(&wit)
            .args(["-w", &world, "componentize", "-p"])
            .arg(folder)
            .arg(module)
            .arg("-o")
            .arg(made)
            // Else Python leaves __pycache__ in the source tree.
            .env("PYTHONDONTWRITEBYTECODE", "1"),
        INSTALL_PYTHON,
    )?;
    Ok(())
}

/// The WIT of WASI p2 as the locked wasmtime-wasi brings it, so that guest and host agree.
fn wasi_wit() -> Result<PathBuf, GuestError> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest];
    let output = run(Command::new("cargo").args(arguments), "install Rust with rustup")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| GuestError::Failed { command: "cargo metadata".into(), output: error.to_string() })?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "wasmtime-wasi")
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|path| Path::new(path).parent())
        .map(|folder| folder.join("src/p2/wit"))
        .filter(|wit| wit.is_dir())
        .ok_or_else(|| GuestError::Failed {
            command: "cargo metadata".into(),
            output: "it names no wasmtime-wasi with a folder src/p2/wit".into(),
        })
}

/// The version in `package wasi:cli@VERSION;`.
fn cli_version(wit: &Path) -> Result<String, GuestError> {
    let path = wit.join("deps/cli.wit");
    let text = fs::read_to_string(&path).map_err(io_at(&path))?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("package wasi:cli@")?.strip_suffix(';').map(str::to_owned))
        .ok_or_else(|| GuestError::Failed {
            command: format!("read {}", path.display()),
            output: "it names no version".into(),
        })
}
