//! Owns how words on the command line become values: sizes, durations, folders, pairs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vyr_proto::v0::ExecutionPath;

use crate::config::{Flags, WITHHOLDABLE};
use crate::fallback::PathChoice;
use crate::ops::container::Options;
use crate::ops::state::Wish;
use crate::state::{OnBusy, check_alias};

/// Flags that every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    // The variables are read by `config`: what clap reads itself, it takes for said on the command line, and shows in the usage
    // of everything.
    /// The data folder [default: vyr in the XDG data folder] [env: VYR_HOME]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
    /// The trust policy [default: trust.toml in the data folder] [env: VYR_TRUST_POLICY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) trust_policy: Option<PathBuf>,
    /// Never touch the network; say what is missing instead [env: VYR_OFFLINE]
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Speak plain HTTP to registries that aren't on this machine
    #[arg(long, global = true)]
    pub(crate) plain_http: bool,
    /// Trust the certificate authorities in this PEM file too (repeatable)
    #[arg(long = "ca-file", global = true, value_name = "FILE")]
    pub(crate) ca_files: Vec<PathBuf>,
    /// Run containers by this: libcontainer, or the path of crun, runc or youki [default: the first that works] [env:
    /// VYR_CONTAINER_ENGINE]
    #[arg(long, global = true, value_name = "ENGINE")]
    pub(crate) container_engine: Option<PathBuf>,
    /// Give no guest this package of WASI (repeatable): what imports it can't start as Wasm
    #[arg(long, global = true, value_name = "PACKAGE", value_parser = WITHHOLDABLE)]
    pub(crate) without: Vec<String>,
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,
}

impl Global {
    /// As the configuration takes them.
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            home: self.home.clone(),
            trust_policy: self.trust_policy.clone(),
            offline: self.offline,
            plain_http: self.plain_http,
            ca_files: self.ca_files.clone(),
            container_engine: self.container_engine.clone(),
            without: self.without.clone(),
        }
    }
}

/// How an artifact may run as a container, and how that is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContainerArgs {
    /// Which way to run it: auto is the Wasm, and the container beside it where the Wasm can't start; wasm; container
    #[arg(long, value_name = "WAY", default_value = "auto")]
    pub(crate) path: PathChoice,
    /// The container's program, in place of the image's entrypoint (repeatable: a word each)
    #[arg(long, value_name = "WORD", help_heading = "Where it runs as a container")]
    pub(crate) entrypoint: Vec<String>,
    /// Its user, as name, uid, name:group or uid:gid [default: the image's]
    #[arg(long, value_name = "USER", help_heading = "Where it runs as a container")]
    pub(crate) user: Option<String>,
    /// The folder that it starts in [default: the image's]
    #[arg(long, value_name = "FOLDER", help_heading = "Where it runs as a container")]
    pub(crate) workdir: Option<String>,
    /// Let it write to its root; what it writes is gone afterwards
    #[arg(long, help_heading = "Where it runs as a container")]
    pub(crate) writable_root: bool,
    /// The most processes and threads
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Where it runs as a container")]
    pub(crate) pids: u32,
    /// The most that it writes to its root, its volumes and its temporary folders; it is held in its memory [default: half of
    /// that, at most 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Where it runs as a container")]
    pub(crate) disk: Option<u64>,
    /// The most processors that it keeps busy: 0.5 [default: all]
    #[arg(long, value_name = "N", value_parser = cpus, help_heading = "Where it runs as a container")]
    pub(crate) cpus: Option<u32>,
    /// How long it has to end when it is cancelled, before it is killed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Where it runs as a container")]
    pub(crate) stop_grace: Duration,
}

impl ContainerArgs {
    /// As a run here takes them.
    pub(crate) fn options(&self) -> Options {
        Options {
            entrypoint: self.entrypoint.clone(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            writable_root: self.writable_root,
            pids: self.pids.into(),
            disk_bytes: self.disk,
            cpus_milli: self.cpus.map(u64::from),
            stop_grace: self.stop_grace,
        }
    }

    /// As a node takes them; `None` where they say nothing.
    pub(crate) fn proto(&self) -> Option<vyr_proto::v0::Container> {
        let options = self.options();
        (options != Options::default()).then(|| vyr_proto::v0::Container {
            entrypoint: options.entrypoint,
            user: options.user.unwrap_or_default(),
            working_dir: options.working_dir.unwrap_or_default(),
            writable_root: options.writable_root,
            pids: self.pids,
            disk_bytes: self.disk.unwrap_or(0),
            cpus_milli: self.cpus.unwrap_or(0),
            stop_grace: prost_types::Duration::try_from(options.stop_grace).ok(),
        })
    }

    /// The way, as a node takes it.
    pub(crate) fn way(&self) -> ExecutionPath {
        match self.path {
            PathChoice::Auto => ExecutionPath::Unspecified,
            PathChoice::Wasm => ExecutionPath::Wasm,
            PathChoice::Container => ExecutionPath::Container,
        }
    }
}

/// Parses `2`, `0.5` as thousandths.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    let bad = || format!("`{text}` is not a number of processors: write it as 2 or 0.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 {
        return Err(bad());
    }
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u32>() };
    let thousandths = digits(&format!("{part:0<3}")).map_err(|_| bad())?;
    let milli = digits(whole).map_err(|_| bad())?.checked_mul(1000).and_then(|n| n.checked_add(thousandths));
    milli.filter(|milli| *milli > 0).ok_or_else(bad)
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
}

/// Parses `64MiB`, `1.5G`, `1048576`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("`{text}` is not a size; write it as 64MiB, or in bytes"))
}

/// Parses `2s`, `500ms`, `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration; write it with its unit, as 30s or 500ms"))
}

/// Parses `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        None if is_name => {
            Err(format!("`{text}` has no value; write KEY=VALUE, as in {text}=\"${text}\" for this shell's own"))
        }
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// A folder given to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
}

/// Parses `HOST::GUEST[:ro]`, or `HOST` alone for the same name inside.
pub(crate) fn folder(text: &str) -> Result<Folder, String> {
    let (text, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (host, guest) = text.split_once("::").unwrap_or((text, text));
    if host.is_empty() || guest.is_empty() {
        return Err(format!("`{text}` is not HOST::GUEST[:ro]"));
    }
    Ok(Folder { host: host.into(), guest: guest.to_owned(), read_only })
}

/// Parses `ALIAS=NAME[:ro][:refuse]`, or `NAME` alone for an alias of the same name.
pub(crate) fn state(text: &str) -> Result<Wish, String> {
    let (alias, rest) = text.split_once('=').unwrap_or(("", text));
    let mut words = rest.split(':');
    let state = words.next().unwrap_or_default();
    let mut wish = Wish {
        state: state.to_owned(),
        alias: if alias.is_empty() { state } else { alias }.to_owned(),
        read_only: false,
        on_busy: OnBusy::Wait,
    };
    for word in words {
        match word {
            "ro" => wish.read_only = true,
            "rw" => wish.read_only = false,
            "wait" => wish.on_busy = OnBusy::Wait,
            "refuse" => wish.on_busy = OnBusy::Refuse,
            _ => return Err(format!("`{text}` is not ALIAS=NAME[:ro][:refuse]")),
        }
    }
    check_alias(&wish.alias).map_err(|e| e.why().to_owned())?;
    if state.is_empty() { Err(format!("`{text}` is not ALIAS=NAME[:ro][:refuse]")) } else { Ok(wish) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse_or_say_why() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert!(size("much").is_err_and(|e| e.contains("not a size")));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5").is_err());
        assert_eq!((cpus("2"), cpus("0.5"), cpus(".25"), cpus("1.")), (Ok(2000), Ok(500), Ok(250), Ok(1000)));
        assert!(["", "0", "x", "1.0005", "-1", "5000000"].iter().all(|bad| cpus(bad).is_err()));
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(pair("=x").is_err() && pair("A").is_err());
        assert_eq!(folder("/a::/b:ro"), Ok(Folder { host: "/a".into(), guest: "/b".into(), read_only: true }));
        assert_eq!(folder("data"), Ok(Folder { host: "data".into(), guest: "data".into(), read_only: false }));
        assert!(folder("::/b").is_err());
        let wish = |state: &str, alias: &str, read_only, on_busy| {
            Ok(Wish { state: state.into(), alias: alias.into(), read_only, on_busy })
        };
        assert_eq!(state("data=readings"), wish("readings", "data", false, OnBusy::Wait));
        assert_eq!(state("readings"), wish("readings", "readings", false, OnBusy::Wait));
        assert_eq!(state("d=r:ro"), wish("r", "d", true, OnBusy::Wait));
        assert_eq!(state("d=r:refuse"), wish("r", "d", false, OnBusy::Refuse));
        for bad in ["", "=", "d=", "d=r:x", "../d=r", "D=r"] {
            assert!(state(bad).is_err(), "{bad}");
        }
    }
}
