//! Builds the guest programs of `workloads/` from source, each once, and says where they are.
//!
//! A built guest is kept in a folder of the build cache under a name that holds the hash of everything
//! that went into it (source, compiler, flags), so a changed source is another file and an old one is
//! never taken for it. Processes that want the same guest at once wait for one another on a lock file.

mod build;
mod python;

use std::path::{Path, PathBuf};

pub use build::GuestError;

/// How a guest is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recipe {
    /// Rust, `wasm32-wasip1`: a core module.
    RustModule { keep_names: bool },
    /// Rust, `wasm32-wasip2`: a component.
    RustComponent { keep_names: bool },
    /// Rust with crates from crates.io, which its own lock names: a component. The source is a package's folder, `also` what
    /// is read beside its manifest, its lock and `src`.
    RustPackage { program: &'static str, also: &'static [&'static str] },
    /// The text format.
    Wat,
    /// C, by `zig cc`: a core module for WASI p1.
    C,
    /// Python, by `componentize-py`: a component of some 18 MB.
    Python,
}

/// A guest: its name, its source below `workloads/guests`, its recipe.
#[derive(Debug, Clone, Copy)]
struct Guest {
    name: &'static str,
    source: &'static str,
    recipe: Recipe,
}

const fn module(name: &'static str, source: &'static str) -> Guest {
    Guest { name, source, recipe: Recipe::RustModule { keep_names: false } }
}

const fn component(name: &'static str, source: &'static str) -> Guest {
    Guest { name, source, recipe: Recipe::RustComponent { keep_names: false } }
}

const fn transform(program: &'static str) -> Guest {
    let recipe = Recipe::RustPackage { program, also: &[".cargo/config.toml"] };
    Guest { name: program, source: "../event-transform", recipe }
}

const GUESTS: &[Guest] = &[
    component("hello", "hello.rs"),
    module("hello-p1", "hello.rs"),
    component("echo-env", "echo-env.rs"),
    module("echo-env-p1", "echo-env.rs"),
    component("exit", "exit.rs"),
    module("exit-p1", "exit.rs"),
    Guest { name: "trap", source: "trap.rs", recipe: Recipe::RustComponent { keep_names: true } },
    Guest { name: "trap-p1", source: "trap.rs", recipe: Recipe::RustModule { keep_names: true } },
    component("spin", "spin.rs"),
    module("spin-p1", "spin.rs"),
    component("sleep", "sleep.rs"),
    module("sleep-p1", "sleep.rs"),
    component("memory", "memory.rs"),
    module("memory-p1", "memory.rs"),
    component("files", "files.rs"),
    module("files-p1", "files.rs"),
    component("chance", "chance.rs"),
    module("chance-p1", "chance.rs"),
    component("state", "state.rs"),
    module("state-p1", "state.rs"),
    component("net", "net.rs"),
    component("noisy", "noisy.rs"),
    module("noisy-p1", "noisy.rs"),
    Guest {
        name: "keyvalue",
        source: "keyvalue",
        recipe: Recipe::RustPackage { program: "keyvalue", also: &["../../../wit/keyvalue.wit"] },
    },
    Guest { name: "http", source: "http", recipe: Recipe::RustPackage { program: "http", also: &[] } },
    Guest {
        name: "collector",
        source: "../disconnected-collector",
        recipe: Recipe::RustPackage { program: "collector", also: &[] },
    },
    Guest { name: "wants", source: "wants.wat", recipe: Recipe::Wat },
    Guest { name: "c-hello", source: "c-hello.c", recipe: Recipe::C },
    Guest { name: "py-hello", source: "py-hello/app.py", recipe: Recipe::Python },
    transform("event-transform"),
    transform("event-generate"),
    Guest { name: "event-transform-py", source: "../event-transform/python/app.py", recipe: Recipe::Python },
];

/// The names of all guests, in the order of `workloads/README.md`.
pub fn names() -> impl Iterator<Item = &'static str> {
    GUESTS.iter().map(|guest| guest.name)
}

/// The path of the guest `name`, built if it wasn't yet.
///
/// The C and Python guests fetch their compilers from PyPI at the first call on a machine.
///
/// # Errors
/// An unknown name, a compiler that is missing (the message names the command that installs it) or that
/// fails, and I/O below the cache folder.
pub fn build(name: &str) -> Result<PathBuf, GuestError> {
    let guest =
        GUESTS.iter().find(|guest| guest.name == name).ok_or_else(|| GuestError::Unknown { name: name.into() })?;
    build::guest(guest)
}

/// Makes Wasm of a file in the text format, as a file of the same name in `folder`; gives its path. Nothing is kept for a second
/// call.
///
/// # Errors
/// The text's own, with its line, and I/O.
pub fn assemble(text: &Path, folder: &Path) -> Result<PathBuf, GuestError> {
    build::assemble(text, folder)
}

/// [`build()`], for tests and benchmarks, which can't go on without their guest.
///
/// # Panics
/// With the error's message, where [`build()`] fails.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    build(name).unwrap_or_else(|error| panic!("the guest `{name}` could not be built: {error}"))
}

/// The folder of the programs that come from PyPI: `componentize-py`, and a `python3` that has the module `ziglang`. Made at
/// the first call on a machine.
///
/// # Panics
/// When it can't be made, with the command that installs what is missing.
#[must_use]
pub fn python_tools() -> PathBuf {
    python::environment().unwrap_or_else(|error| panic!("the tools from PyPI could not be had: {error}"))
}

/// The folder of the guests' sources.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_field(path: &Path) -> [u8; 4] {
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(&bytes[..4], b"\0asm", "{}", path.display());
        bytes[4..8].try_into().unwrap()
    }

    #[test]
    fn a_module_and_a_component_come_out_as_such() {
        assert_eq!(version_field(&guest("hello-p1")), [1, 0, 0, 0]);
        assert_eq!(version_field(&guest("hello")), [13, 0, 1, 0]);
        assert_eq!(version_field(&guest("wants")), [1, 0, 0, 0]);
    }

    #[test]
    fn a_built_guest_is_not_built_again() {
        let first = guest("exit-p1");
        let made = std::fs::metadata(&first).unwrap().modified().unwrap();
        let second = guest("exit-p1");
        assert_eq!(first, second);
        assert_eq!(std::fs::metadata(&second).unwrap().modified().unwrap(), made);
    }

    #[test]
    fn many_at_once_get_the_same_whole_file() {
        let paths: Vec<PathBuf> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| guest("spin-p1"))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        assert!(paths.iter().all(|path| *path == paths[0]));
        assert_eq!(version_field(&paths[0]), [1, 0, 0, 0]);
    }

    #[test]
    fn an_unknown_guest_is_named_with_the_known_ones() {
        let error = build("no-such").unwrap_err().to_string();
        assert!(error.contains("`no-such`") && error.contains("echo-env"), "{error}");
    }

    #[test]
    fn text_becomes_wasm_or_says_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("own.wat");
        std::fs::write(&text, "(module)\n").unwrap();
        let made = assemble(&text, folder.path()).unwrap();
        assert_eq!((made.as_path(), version_field(&made)), (folder.path().join("own.wasm").as_path(), [1, 0, 0, 0]));
        std::fs::write(&text, "(module\n(func wrong))\n").unwrap();
        let error = assemble(&text, folder.path()).unwrap_err().to_string();
        assert!(error.contains("own.wat:2"), "{error}");
    }

    #[test]
    fn only_trap_keeps_its_names() {
        let has_names = |name| std::fs::read(guest(name)).unwrap().windows(9).any(|window| window == b"vyr_inner");
        assert!(has_names("trap-p1"));
        let hello = std::fs::read(guest("hello-p1")).unwrap();
        assert!(!hello.windows(18).any(|window| window == b"lang_start_interna"), "hello-p1 is stripped");
    }
}
