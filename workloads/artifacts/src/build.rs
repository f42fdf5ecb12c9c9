//! Owns the cache of built guests: keys, locks, and the call of each compiler.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use crate::{Guest, Recipe, names, python, sources};

/// Why a guest is not there.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Nobody wrote such a guest.
    #[error("no guest is named `{name}`; there are {}", names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A tool that the recipe needs isn't there.
    #[error("{tool} is missing ({why}); run: {install}")]
    Missing {
        /// The tool.
        tool: String,
        /// What was seen.
        why: String,
        /// The command that installs it.
        install: String,
    },
    /// A compiler failed.
    #[error("`{command}` failed: {output}")]
    Failed {
        /// The command.
        command: String,
        /// What it wrote.
        output: String,
    },
    /// The cache folder or a source can't be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> GuestError {
    let path = path.to_owned();
    move |source| GuestError::Io { path, source }
}

/// A variable of the environment: this crate is a build tool, and reads what cargo and the desktop set.
fn variable(name: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "`config` belongs to vyr; this is a build tool beside it")]
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `$XDG_CACHE_HOME/vyr`, by default `~/.cache/vyr`.
pub(crate) fn cache() -> PathBuf {
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("vyr")
}

/// Where built guests are: in the target folder where one is named (a relative one means another folder to
/// each test binary, so it doesn't count), else in the user's cache.
fn folder() -> PathBuf {
    variable("CARGO_TARGET_DIR").filter(|path| path.is_absolute()).unwrap_or_else(cache).join("guests")
}

/// Holds `path` as a lock until dropped; waits for whoever has it.
pub(crate) fn lock(path: &Path) -> Result<File, GuestError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io_at(path))?;
    file.lock().map_err(io_at(path))?;
    Ok(file)
}

pub(crate) fn run(command: &mut Command, install: &str) -> Result<Output, GuestError> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|error| GuestError::Missing {
        tool: command.get_program().to_string_lossy().into_owned(),
        why: error.to_string(),
        install: install.into(),
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(GuestError::Failed { command: shown, output: String::from_utf8_lossy(&said).trim().to_owned() })
}

const INSTALL_RUST: &str = "install Rust with rustup";

/// `rustc -vV`: what tells one compiler from another.
fn rustc_version() -> Result<&'static str, GuestError> {
    static VERSION: OnceLock<String> = OnceLock::new();
    if let Some(version) = VERSION.get() {
        return Ok(version);
    }
    let output = run(Command::new("rustc").arg("-vV"), INSTALL_RUST)?;
    Ok(VERSION.get_or_init(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Sees to it that the standard library of `target` is there, by rustup where it isn't.
fn need_target(target: &str, folder: &Path) -> Result<(), GuestError> {
    let there = || -> Result<bool, GuestError> {
        let output = run(Command::new("rustc").args(["--print", "target-libdir", "--target", target]), INSTALL_RUST)?;
        Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if there()? {
        return Ok(());
    }
    let _one_at_a_time = lock(&folder.join(".rustup.lock"))?;
    let install = format!("rustup target add {target}");
    let missing = |why: String| GuestError::Missing {
        tool: format!("Rust's standard library for {target}"),
        why,
        install: install.clone(),
    };
    run(Command::new("rustup").args(["target", "add", target]), &install)
        .map_err(|error| missing(error.to_string()))?;
    if there()? { Ok(()) } else { Err(missing("rustup added it, but rustc doesn't see it".into())) }
}

fn rust_arguments(recipe: Recipe) -> Vec<&'static str> {
    let (target, keep_names) = match recipe {
        Recipe::RustModule { keep_names } => ("wasm32-wasip1", keep_names),
        Recipe::RustComponent { keep_names } => ("wasm32-wasip2", keep_names),
        Recipe::RustPackage { program, .. } => {
            return vec!["build", "--quiet", "--release", "--locked", "--target", PACKAGE_TARGET, "--bin", program];
        }
        Recipe::Wat | Recipe::C | Recipe::Python => return Vec::new(),
    };
    let strip = if keep_names { "strip=none" } else { "strip=symbols" };
    vec!["-O", "--edition", "2024", "-C", strip, "-C", "debuginfo=0", "--target", target]
}

/// What packages are built for.
const PACKAGE_TARGET: &str = "wasm32-wasip2";

/// The files that a guest is built from.
fn inputs(guest: &Guest) -> Result<Vec<PathBuf>, GuestError> {
    let source = sources().join(guest.source);
    let Recipe::RustPackage { also, .. } = guest.recipe else { return Ok(vec![source]) };
    let mut files: Vec<_> = ["Cargo.toml", "Cargo.lock"].iter().chain(also).map(|file| source.join(file)).collect();
    let mut folders = vec![source.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io_at(&folder))? {
            let path = entry.map_err(io_at(&folder))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<u8>, GuestError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(fs::read(path).map_err(io_at(path))?);
    }
    Ok(all)
}

/// The hash of everything that goes into a guest.
fn key(guest: &Guest, source: &[u8]) -> Result<String, GuestError> {
    let mut hash = Sha256::new();
    let compiler = match guest.recipe {
        Recipe::RustModule { .. } | Recipe::RustComponent { .. } | Recipe::RustPackage { .. } => {
            rustc_version()?.to_owned()
        }
        Recipe::Wat => String::new(),
        Recipe::C | Recipe::Python => python::REQUIREMENTS.to_owned(),
    };
    for part in [source, compiler.as_bytes(), rust_arguments(guest.recipe).join(" ").as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn guest(guest: &Guest) -> Result<PathBuf, GuestError> {
    let source = sources().join(guest.source);
    let text = read_all(&inputs(guest)?)?;
    let folder = folder();
    let path = folder.join(format!("{}-{}.wasm", guest.name, key(guest, &text)?));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(io_at(&folder))?;
    let _one_at_a_time = lock(&folder.join(format!(".{}.lock", guest.name)))?;
    if path.is_file() {
        return Ok(path);
    }
    // On the cache's own device, so that the last step is one rename.
    let work = tempfile::Builder::new().prefix(".building-").tempdir_in(&folder).map_err(io_at(&folder))?;
    let made = work.path().join("guest.wasm");
    compile(guest, &source, &text, &made, &folder)?;
    #[expect(clippy::disallowed_methods, reason = "a build cache: after a crash the guest is built again")]
    fs::rename(&made, &path).map_err(io_at(&path))?;
    Ok(path)
}

pub(crate) fn assemble(text: &Path, folder: &Path) -> Result<PathBuf, GuestError> {
    let bytes = wat::parse_file(text).map_err(|error| GuestError::Failed {
        command: format!("wat {}", text.display()),
        output: error.to_string(),
    })?;
    let made = folder.join(text.file_name().unwrap_or(text.as_os_str())).with_extension("wasm");
    fs::write(&made, bytes).map_err(io_at(&made))?;
    Ok(made)
}

fn compile(guest: &Guest, source: &Path, text: &[u8], made: &Path, folder: &Path) -> Result<(), GuestError> {
    match guest.recipe {
        Recipe::RustModule { .. } | Recipe::RustComponent { .. } => {
            let arguments = rust_arguments(guest.recipe);
            if let Some(target) = arguments.last() {
                need_target(target, folder)?;
            }
            run(Command::new("rustc").args(&arguments).arg("-o").arg(made).arg(source), INSTALL_RUST)?;
        }
        Recipe::RustPackage { program, .. } => {
            need_target(PACKAGE_TARGET, folder)?;
            // Kept, so that another build of it doesn't build its crates again.
            let target = folder.join(format!(".{}-target", guest.name));
            let mut cargo = Command::new("cargo");
            // In its folder, so that its own `.cargo/config.toml` counts as it does by hand.
            cargo.args(rust_arguments(guest.recipe)).current_dir(source);
            // What the caller's own build sets is for another target.
            cargo.arg("--target-dir").arg(&target).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
            run(&mut cargo, INSTALL_RUST)?;
            let built = target.join(PACKAGE_TARGET).join("release").join(program).with_extension("wasm");
            fs::copy(&built, made).map_err(io_at(&built))?;
        }
        Recipe::Wat => {
            let bytes = wat::parse_bytes(text).map_err(|error| GuestError::Failed {
                command: format!("wat {}", guest.source),
                output: error.to_string(),
            })?;
            fs::write(made, bytes).map_err(io_at(made))?;
        }
        Recipe::C => python::compile_c(source, made)?,
        Recipe::Python => python::componentize(source, made)?,
    }
    Ok(())
}
