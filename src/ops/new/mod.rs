//! Owns new workloads: a folder with a program, and scripts that build and push it with the toolchain that is there.
//!
//! The files are those of `workloads/templates`, with `{{words}}` replaced.

mod toolchain;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
use rustix::io::Errno;
use serde::Serialize;

pub use toolchain::Toolchain;

use crate::error::{Error, ErrorKind, Result};

/// What a workload may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust, by cargo.
    Rust,
    /// C, by whichever compiler for wasm32-wasi is there.
    C,
    /// Python, by componentize-py.
    Python,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The folder, as it was asked for.
    pub folder: PathBuf,
    /// Its files, as paths in it, in alphabetical order.
    pub files: Vec<&'static str>,
    /// What builds it.
    pub toolchain: Toolchain,
    /// The commands to type now, in their order.
    pub next: Vec<String>,
}

/// A name longer than this is no name of a crate or a repository.
const MAX_NAME_CHARS: usize = 64;

/// A file of a template: its path in the folder, its text, whether it is run.
type File = (&'static str, &'static [&'static str], bool);

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../workloads/templates/", $path))
    };
}

const PUSH: File = ("push.sh", &[template!("push.sh")], true);
const USAGE: &str = template!("usage.md");

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => &[
                (".gitignore", &[template!("rust/gitignore")], false),
                ("Cargo.toml", &[template!("rust/Cargo.toml")], false),
                ("README.md", &[template!("rust/README.md"), USAGE], false),
                ("build.sh", &[template!("rust/build.sh")], true),
                PUSH,
                ("src/main.rs", &[template!("rust/src/main.rs")], false),
            ],
            Self::C => &[
                (".gitignore", &[template!("c/gitignore")], false),
                ("README.md", &[template!("c/README.md"), USAGE], false),
                ("build.sh", &[template!("c/build.sh")], true),
                ("main.c", &[template!("c/main.c")], false),
                PUSH,
            ],
            Self::Python => &[
                (".gitignore", &[template!("python/gitignore")], false),
                ("README.md", &[template!("python/README.md"), USAGE], false),
                ("app.py", &[template!("python/app.py")], false),
                ("build.sh", &[template!("python/build.sh")], true),
                PUSH,
                ("wit/world.wit", &[template!("python/wit/world.wit")], false),
            ],
        }
    }
}

/// Makes `folder`, whose last part is the workload's name. Runs the toolchain's programs to see which are there, which
/// blocks for some tenths of a second.
///
/// # Errors
/// [`ErrorKind::Usage`] for a name that can't be one, and for a folder that is there; [`ErrorKind::Storage`] when it can't be
/// written. The folder is there whole or not at all.
pub fn new(language: Language, folder: &Path) -> Result<Made> {
    let name = name_of(folder)?;
    let already = || {
        Error::new(ErrorKind::Usage, format!("{} is there already", folder.display()))
            .hint("give another name, or move it away")
    };
    if folder.symlink_metadata().is_ok() {
        return Err(already());
    }
    let found = toolchain::find(language);
    let words = found.words(name);

    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(Error::new(ErrorKind::Usage, format!("there is no folder {}", parent.display()))
            .hint("make it first, or give a name alone"));
    }
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", folder.display()))
            .hint(format_args!("check the free space of {} and that you may write there", parent.display()))
    };
    let unfinished = tempfile::Builder::new().prefix(".vyr-new-").tempdir_in(parent).map_err(failed)?;
    for (path, parts, is_run) in language.files() {
        let text: String = parts.iter().map(|part| filled(part, &words)).collect();
        let path = unfinished.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(parent)).map_err(failed)?;
        let mode = if *is_run { 0o777 } else { 0o666 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
    }
    // A temporary folder is its owner's alone; this one is to be like any other.
    fs::set_permissions(
        unfinished.path(),
        fs::metadata(unfinished.path().join("build.sh")).map_err(failed)?.permissions(),
    )
    .map_err(failed)?;
    let placed = match renameat_with(CWD, unfinished.path(), CWD, folder, RenameFlags::NOREPLACE) {
        // A file system that doesn't know the flag, such as NFS: then what was seen above has to do.
        Err(Errno::INVAL) => renameat(CWD, unfinished.path(), CWD, folder),
        placed => placed,
    };
    match placed {
        Ok(()) => drop(unfinished.keep()),
        Err(Errno::EXIST) => return Err(already()),
        Err(e) => return Err(failed(e.into())),
    }

    let mut next = vec![format!("cd {}", quoted(folder))];
    next.extend(found.toolchain.install.clone());
    next.extend([
        "./build.sh".to_owned(),
        "vyr serve &".to_owned(),
        "./push.sh".to_owned(),
        format!("vyr run localhost:7070/{name}:v1 -- 1 2 3.5"),
    ]);
    let files = language.files().iter().map(|(path, _, _)| *path).collect();
    Ok(Made { folder: folder.to_owned(), files, toolchain: found.toolchain, next })
}

/// The last part of `folder`, where that can name a crate, a file and a repository alike.
fn name_of(folder: &Path) -> Result<&str> {
    let bad = |why: &str| {
        Error::new(ErrorKind::Usage, format!("`{}` can't name a workload: {why}", folder.display()))
            .hint("write small letters, digits, - and _, a letter first: my-workload")
    };
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
        return Err(bad("its last part is no name"));
    };
    if name.len() > MAX_NAME_CHARS {
        return Err(bad("it has more than 64 characters"));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(bad("it doesn't begin with a small letter"));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))) {
        return Err(bad(&format!("it has {c:?} in it")));
    }
    // As the names of repositories have it.
    if name.split(['-', '_']).any(str::is_empty) {
        return Err(bad("a - or _ stands at its end or beside another"));
    }
    // What cargo keeps for itself.
    if ["build", "deps", "examples", "incremental"].contains(&name) {
        return Err(bad("cargo has a folder of that name in its own"));
    }
    Ok(name)
}

fn filled(text: &str, words: &[(&str, String)]) -> String {
    words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(&format!("{{{{{word}}}}}"), value))
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_one_and_names_that_can_not() {
        for good in ["a", "hello", "my-workload", "w_2", "some/folder/x1", "../up"] {
            assert!(name_of(Path::new(good)).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in
            ["", "/", "..", "Hello", "1st", "-x", "a--b", "a-", "a_-b", "a b", "a.b", "é", "x\n", "deps", "a/B", &long]
        {
            let error = name_of(Path::new(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(error.next().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_quoted_as_a_shell_reads_it() {
        assert_eq!(quoted(Path::new("a/b-c")), "a/b-c");
        assert_eq!(quoted(Path::new("it's here")), r"'it'\''s here'");
    }

    #[test]
    fn every_word_of_every_template_is_filled_in() {
        for language in [Language::Rust, Language::C, Language::Python] {
            let words = toolchain::find(language).words("x");
            for (path, parts, _) in language.files() {
                for part in *parts {
                    let text = filled(part, &words);
                    assert!(!text.contains("{{"), "{language:?} {path}: {text}");
                }
            }
        }
    }
}
