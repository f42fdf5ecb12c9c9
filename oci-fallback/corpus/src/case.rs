//! Owns what a case is: an image, how it is run, what has to come of it, and the Wasm beside it that can't start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::wasm;

/// Who makes the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Maker {
    /// This program, to the letter of the specification and with what other makers don't write.
    Hand,
    Umoci,
    Buildah,
    Crane,
}

impl Maker {
    pub(crate) const ALL: [Self; 4] = [Self::Umoci, Self::Buildah, Self::Crane, Self::Hand];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hand => "by hand",
            Self::Umoci => "umoci",
            Self::Buildah => "buildah",
            Self::Crane => "crane",
        }
    }
}

/// Whose media types the manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Types {
    #[default]
    Oci,
    Docker,
    /// Docker's layers in an OCI manifest, as registries' converters leave them.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    Gzip,
    Zstd,
    None,
    /// gzip in several members, as parallel compressors write it.
    Multi,
}

/// What one layer holds. A layer that names several has them in this order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
    /// busybox alone, as `/bin/busybox` and `/bin/sh`.
    pub(crate) busybox: bool,
    /// Debian's essential packages.
    pub(crate) base: bool,
    /// Debian packages and what they need, installed over the base.
    pub(crate) packages: Vec<String>,
    /// A shell command in that root afterwards.
    pub(crate) run: String,
    /// Of those packages only these files, with the libraries that they are linked to.
    pub(crate) only: Vec<String>,
    pub(crate) files: Vec<Entry>,
}

/// One file of a layer that is written by hand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Entry {
    /// `\xNN` is that byte.
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) kind: Kind,
    /// Of a regular file.
    #[serde(default)]
    pub(crate) text: String,
    /// A program of this machine or built for it: its name in `programs.rs`.
    #[serde(default)]
    pub(crate) from: String,
    /// Of links.
    #[serde(default)]
    pub(crate) target: String,
    /// Zeros, so many, in place of a text.
    #[serde(default)]
    pub(crate) zeros: u64,
    /// So many files, `{}` in the path being the number.
    #[serde(default)]
    pub(crate) count: u32,
    #[serde(default)]
    pub(crate) mode: Option<u32>,
    #[serde(default)]
    pub(crate) uid: u64,
    #[serde(default)]
    pub(crate) gid: u64,
    #[serde(default)]
    pub(crate) xattrs: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(crate) mtime: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    #[default]
    File,
    Dir,
    Symlink,
    Hardlink,
    Fifo,
    CharDevice,
    /// `.wh.NAME`: what lower layers have there is gone.
    Whiteout,
    /// `.wh..wh..opq` in that folder: what lower layers have in it is gone.
    Opaque,
}

/// The image's config.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    /// The shell form, which makers turn into `/bin/sh -c`.
    pub(crate) cmd_shell: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<String>,
}

/// How the manifests are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// One manifest.
    #[default]
    Plain,
    /// An index of this architecture's image and of others that don't run here.
    Variants,
    /// An index in an index.
    Nested,
    /// An index with build attestations of the platform `unknown/unknown`, as BuildKit writes them.
    Attested,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What runs in it, for people.
    pub(crate) software: String,
    pub(crate) maker: Maker,
    #[serde(default)]
    pub(crate) types: Types,
    #[serde(default)]
    pub(crate) compression: Compression,
    #[serde(default)]
    pub(crate) shape: Shape,
    /// What is special about it beyond what can be read off its parts; see [`Case::features`].
    #[serde(default)]
    pub(crate) features: Vec<String>,
    /// Among those that `--quick` takes.
    #[serde(default)]
    pub(crate) quick: bool,
    /// The Wasm beside it: a name of `wasm.rs`.
    pub(crate) wasm: String,
    pub(crate) layers: Vec<Layer>,
    /// Further layers that the maker makes itself, each by a command in the image (buildah alone).
    #[serde(default)]
    pub(crate) build: Vec<String>,
    #[serde(default)]
    pub(crate) config: Config,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) stdin: String,
    #[serde(default)]
    pub(crate) exit: i32,
    /// Exactly this on standard output.
    #[serde(default)]
    pub(crate) stdout: Option<String>,
    /// A regular expression that the whole of it has to match.
    #[serde(default)]
    pub(crate) stdout_regex: Option<String>,
    /// Where it is long or no text: its hash.
    #[serde(default)]
    pub(crate) stdout_sha256: Option<String>,
    /// What the run has to be given.
    #[serde(default)]
    pub(crate) memory: Option<String>,
    #[serde(default)]
    pub(crate) writable_root: bool,
    /// Seconds.
    #[serde(default = "minute")]
    pub(crate) timeout: u32,
}

fn minute() -> u32 {
    60
}

#[derive(Debug, Deserialize)]
struct Group {
    case: Vec<Case>,
}

impl Case {
    /// Every feature of its image and its run, sorted: those that its parts show and those that it names.
    pub(crate) fn features(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.features.iter().cloned().collect();
        let mut when = |yes: bool, word: &str| {
            if yes {
                all.insert(word.to_owned());
            }
        };
        let config = &self.config;
        let kinds = |kind| self.layers.iter().flat_map(|layer| &layer.files).any(|entry| entry.kind == kind);
        let count = self.layers.len() + self.build.len();
        when(count == 1, "one layer");
        when((2..5).contains(&count), "2 to 4 layers");
        when(count >= 5, "5 layers and more");
        when(!config.entrypoint.is_empty() && config.cmd.is_empty(), "entrypoint");
        when(config.entrypoint.is_empty() && !config.cmd.is_empty(), "cmd");
        when(!config.entrypoint.is_empty() && !config.cmd.is_empty(), "entrypoint and cmd");
        when(!config.cmd_shell.is_empty(), "shell form");
        when(!config.env.is_empty(), "env");
        when(!config.workdir.is_empty(), "workdir");
        when(!config.volumes.is_empty(), "volume");
        when(!config.stop_signal.is_empty(), "stop signal");
        let numeric = config.user.starts_with(|c: char| c.is_ascii_digit());
        when(numeric, "numeric user");
        when(!numeric && !config.user.is_empty(), "named user");
        when(config.user.contains(':'), "named group");
        when(kinds(Kind::Whiteout), "whiteout");
        when(kinds(Kind::Opaque), "opaque folder");
        when(kinds(Kind::Hardlink), "hard link");
        when(kinds(Kind::Fifo), "fifo");
        when(self.layers.iter().flat_map(|l| &l.files).any(|e| !e.xattrs.is_empty()), "xattr");
        when(self.layers.iter().flat_map(|l| &l.files).any(|e| e.mode.is_some_and(|m| m & 0o6000 != 0)), "setuid");
        when(self.layers.iter().any(|layer| layer.base), "symlinked root folders");
        when(self.layers.iter().any(|layer| !layer.packages.is_empty()), "Debian packages");
        when(!self.args.is_empty(), "arguments");
        when(!self.stdin.is_empty(), "stdin");
        when(self.exit != 0, "exit code");
        when(self.writable_root, "writable root");
        when(self.types == Types::Docker, "Docker media types");
        when(self.types == Types::Mixed, "mixed media types");
        when(self.compression == Compression::Zstd, "zstd");
        when(self.compression == Compression::None, "uncompressed");
        when(self.compression == Compression::Multi, "gzip in members");
        when(self.shape == Shape::Variants, "index of variants");
        when(self.shape == Shape::Nested, "nested index");
        when(self.shape == Shape::Attested, "attestations");
        all
    }

    /// The reason that the task has to give.
    pub(crate) fn reason(&self) -> Result<&'static str> {
        Ok(wasm::partner(&self.wasm)?.reason)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "its name");
        let given = [self.stdout.is_some(), self.stdout_regex.is_some(), self.stdout_sha256.is_some()];
        ensure!(given.iter().filter(|one| **one).count() == 1, "one of `stdout`, `stdout-regex`, `stdout-sha256`");
        ensure!(self.build.is_empty() || self.maker == Maker::Buildah, "only buildah runs commands");
        ensure!(self.config.cmd.is_empty() || self.config.cmd_shell.is_empty(), "one form of command");
        ensure!(!self.layers.is_empty(), "layers");
        self.reason()?;
        Ok(())
    }

    /// Whether each of the words is in its name, its software, its maker or its features.
    pub(crate) fn fits(&self, words: &[String]) -> bool {
        let features = self.features().into_iter().collect::<Vec<_>>().join(" ");
        let text = format!("{} {} {} {} {features}", self.name, self.software, self.maker.name(), self.wasm);
        let text = text.to_lowercase();
        words.iter().all(|word| text.contains(&word.to_lowercase()))
    }
}

/// All cases, in the order of the files' names and within them.
pub(crate) fn all(folder: &Path) -> Result<Vec<Case>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut all: Vec<Case> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let group: Group = toml::from_str(&text).with_context(|| file.display().to_string())?;
        for case in group.case {
            case.check().with_context(|| format!("case {} in {}", case.name, file.display()))?;
            ensure!(all.iter().all(|known| known.name != case.name), "two cases are named {}", case.name);
            all.push(case);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corpus keeps its size and its spread: a case may change, but nothing may quietly go.
    #[test]
    fn the_corpus_is_large_and_mixed() {
        let cases = all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
        assert!(cases.len() >= 64, "{} cases", cases.len());
        for maker in Maker::ALL {
            assert!(cases.iter().filter(|case| case.maker == maker).count() >= 8, "{}", maker.name());
        }
        for partner in wasm::PARTNERS {
            assert!(cases.iter().any(|case| case.wasm == partner.name), "no case has {}", partner.name);
        }
        let quick = cases.iter().filter(|case| case.quick).count();
        assert!((8..=10).contains(&quick), "{quick} quick cases");
        let bulky = |case: &&Case| case.quick && case.layers.iter().any(|l| l.base || !l.packages.is_empty());
        assert_eq!(cases.iter().filter(bulky).count(), 0, "a quick case fetches packages");
    }
}
