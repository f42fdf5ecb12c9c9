//! Owns every setting: where it comes from (flag, `VYR_*` variable, `config.toml`, default, in that order), and the
//! folder that VYR keeps its data in. The only place that reads the environment.

mod guarded;
mod home;
mod identity;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub(crate) use guarded::{Unfit, open_guarded};
pub use home::Home;
pub use identity::Secret;
pub(crate) use identity::write_new_private;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{OWN_HOST, parse_reference};

/// The variables that VYR reads, each with what it means. The reference page is made from these.
#[derive(Debug)]
pub struct EnvVars;

impl EnvVars {
    /// The data folder. Default: `vyr` in the XDG data folder.
    pub const VYR_HOME: &'static str = "VYR_HOME";
    /// The settings file. Default: `config.toml` in the data folder.
    pub const VYR_CONFIG: &'static str = "VYR_CONFIG";
    /// The trust policy. Default: `trust.toml` in the data folder.
    pub const VYR_TRUST_POLICY: &'static str = "VYR_TRUST_POLICY";
    /// Never touch the network, when set to anything but `0` or the empty string.
    pub const VYR_OFFLINE: &'static str = "VYR_OFFLINE";
    /// The node that the task verbs speak to. Default: the data folder's socket, else `http://127.0.0.1:7070`.
    pub const VYR_NODE: &'static str = "VYR_NODE";
    /// The bearer token that a node asks for; goes before the next.
    pub const VYR_TOKEN: &'static str = "VYR_TOKEN";
    /// The file that holds it.
    pub const VYR_TOKEN_FILE: &'static str = "VYR_TOKEN_FILE";
    /// What runs containers: `libcontainer`, or the path of an installed `crun`, `runc` or `youki`. Default: the first that works.
    pub const VYR_CONTAINER_ENGINE: &'static str = "VYR_CONTAINER_ENGINE";
    /// Where `vyr serve` listens. Default: `127.0.0.1:7070`.
    pub const VYR_LISTEN: &'static str = "VYR_LISTEN";
    /// The most of the network that submits to `vyr serve` may ask for: rules with commas between, or `none`. Default: whatever they ask for.
    pub const VYR_ALLOW_NET_AT_MOST: &'static str = "VYR_ALLOW_NET_AT_MOST";
    /// Whether `vyr serve` confines itself: `auto`, `required` or `off`. Default: `auto`.
    pub const VYR_CONFINE: &'static str = "VYR_CONFINE";
    /// What to log to stderr, in the syntax of `tracing`'s filter: `debug`, `vyr::registry=trace`.
    pub const VYR_LOG: &'static str = "VYR_LOG";
    /// The password of an encrypted private key.
    pub const VYR_KEY_PASSWORD: &'static str = "VYR_KEY_PASSWORD";
    /// The same, under cosign's name.
    pub const COSIGN_PASSWORD: &'static str = "COSIGN_PASSWORD";
    /// The folder that holds Docker's `config.json`. Default: `~/.docker`.
    pub const DOCKER_CONFIG: &'static str = "DOCKER_CONFIG";
    /// Where wasi-sdk is, for `vyr new c`.
    pub const WASI_SDK_PATH: &'static str = "WASI_SDK_PATH";
    /// Plain output without colour, when set.
    pub const NO_COLOR: &'static str = "NO_COLOR";
    /// Where to send traces by OTLP; nothing is sent when neither this nor the next is set.
    pub const OTEL_EXPORTER_OTLP_ENDPOINT: &'static str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    /// The same, for traces alone.
    pub const OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: &'static str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    /// `grpc` or `http/protobuf` (the default).
    pub const OTEL_EXPORTER_OTLP_PROTOCOL: &'static str = "OTEL_EXPORTER_OTLP_PROTOCOL";
    /// How many spans of a node wait for the collector at most. Default: 16384.
    pub const OTEL_BSP_MAX_QUEUE_SIZE: &'static str = "OTEL_BSP_MAX_QUEUE_SIZE";
    /// How many spans of tasks a node makes for the collector in a second at most. Default: 15000.
    pub const VYR_SPANS_PER_SECOND: &'static str = "VYR_SPANS_PER_SECOND";
    /// Which traces are sent. Default: `parentbased_always_on`.
    pub const OTEL_TRACES_SAMPLER: &'static str = "OTEL_TRACES_SAMPLER";
    /// The ratio of the samplers that have one.
    pub const OTEL_TRACES_SAMPLER_ARG: &'static str = "OTEL_TRACES_SAMPLER_ARG";
    /// The W3C trace context that a run joins.
    pub const TRACEPARENT: &'static str = "TRACEPARENT";
    /// Where a service manager is told that the node is ready.
    pub const NOTIFY_SOCKET: &'static str = "NOTIFY_SOCKET";
    /// A file of certificate authorities, in place of the system's.
    pub const SSL_CERT_FILE: &'static str = "SSL_CERT_FILE";
    /// A folder of certificate authorities, in place of the system's.
    pub const SSL_CERT_DIR: &'static str = "SSL_CERT_DIR";
    /// Proxy for HTTPS registries; the lower-case form is read too.
    pub const HTTPS_PROXY: &'static str = "HTTPS_PROXY";
    /// Proxy for plain HTTP registries; the lower-case form alone is read, as curl does.
    pub const HTTP_PROXY: &'static str = "http_proxy";
    /// Hosts that are reached without a proxy; the lower-case form is read too.
    pub const NO_PROXY: &'static str = "NO_PROXY";

    /// A variable's value; `None` when it is unset, empty or not UTF-8.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn get(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }

    /// The value of the first of `names` that is set.
    #[must_use]
    pub fn first(names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| Self::get(name))
    }
}

/// `config.toml`. Every field may be missing; an unknown one is an error that names it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// Path of the trust policy.
    pub trust_policy: Option<PathBuf>,
    /// Never touch the network.
    pub offline: Option<bool>,
    /// Registry settings.
    pub registry: RegistryFile,
    /// The most that compiled code may take on disk, in bytes.
    pub code_cache_bytes: Option<u64>,
    /// The node's settings.
    pub serve: ServeFile,
    /// Each `[[mirror]]`.
    pub mirror: Vec<MirrorFile>,
    /// What synced states do.
    pub state: StateFile,
    /// What runs containers: `libcontainer`, or a path.
    pub container_engine: Option<PathBuf>,
    /// Packages of WASI that no guest is given: `wasi:sockets`, `wasi:keyvalue`.
    pub without: Vec<String>,
}

/// The `[state]` part of `config.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StateFile {
    /// The most that a sync sends, in bytes a second.
    pub sync_bytes_per_second: Option<NonZeroU64>,
    /// Changed files are sealed while their writer runs when they have so many bytes together.
    pub seal_bytes: Option<u64>,
    /// And when the last seal is so long ago.
    pub seal_seconds: Option<u64>,
    /// How much of what was pushed each state keeps, in bytes, in case that the repository loses it.
    pub keep_pushed_bytes: Option<u64>,
}

impl StateFile {
    /// How many bytes of changed files are sealed while their writer runs.
    #[must_use]
    pub fn seal_bytes(&self) -> u64 {
        self.seal_bytes.unwrap_or(8 << 20)
    }

    /// How long changed files wait to be sealed while their writer runs.
    #[must_use]
    pub fn seal_after(&self) -> Duration {
        Duration::from_secs(self.seal_seconds.unwrap_or(60).max(1))
    }

    /// How many bytes of pushed segments each state keeps.
    #[must_use]
    pub fn keep_pushed_bytes(&self) -> u64 {
        self.keep_pushed_bytes.unwrap_or(64 << 20)
    }
}

/// A `[[mirror]]` of `config.toml`: repositories of the own registry that show what another one has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MirrorFile {
    /// Own repositories below this name are mirrors: `ghcr`.
    pub prefix: String,
    /// Of the same name below this one: `ghcr.io`, `example.com:5000/team`.
    pub upstream: String,
}

/// # Errors
/// [`ErrorKind::Usage`], naming the mirror that is wrong.
fn check_mirrors(mirrors: &[MirrorFile]) -> Result<()> {
    let wrong = |why: String| {
        Error::new(ErrorKind::Usage, format!("a [[mirror]] of the settings file can't be used: {why}"))
            .hint("write prefix = \"ghcr\" and upstream = \"ghcr.io\"; see docs/registry.md")
    };
    for (position, mirror) in mirrors.iter().enumerate() {
        if parse_reference(&format!("{OWN_HOST}/{}/x", mirror.prefix)).is_err() {
            return Err(wrong(format!("`{}` is no prefix of repositories", mirror.prefix)));
        }
        // A word without a dot or port would be read as a part of the repository.
        let host = mirror.upstream.split('/').next().unwrap_or_default();
        if !parse_reference(&format!("{}/x", mirror.upstream)).is_ok_and(|r| r.registry() == host) {
            return Err(wrong(format!("`{}` is no host[:port][/path]", mirror.upstream)));
        }
        if mirrors.iter().take(position).any(|other| other.prefix == mirror.prefix) {
            return Err(wrong(format!("two have the prefix `{}`", mirror.prefix)));
        }
    }
    Ok(())
}

/// The `[serve]` part of `config.toml`: what `vyr serve` takes where its flags don't say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServeFile {
    /// Where to listen: `127.0.0.1:7070`.
    pub listen: Option<String>,
    /// PEM file of the node's certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub tls_key: Option<PathBuf>,
    /// PEM file of who signs clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// The file of bearer tokens.
    pub token_file: Option<PathBuf>,
    /// Repositories of the node's registry, and what is below them, that may be read without a token.
    pub anonymous_read: Vec<String>,
    /// How many connections may be open at once, by the port and by the socket each.
    pub max_connections: Option<usize>,
    /// Names of the node besides those of the machine, under which it answers who shows no credential.
    pub host_names: Vec<String>,
    /// How many tasks are prepared or run at once.
    pub max_running: Option<u32>,
    /// How many tasks wait at most.
    pub max_queued: Option<usize>,
    /// The linear memory that guests hold together at most, in bytes.
    pub memory_budget_bytes: Option<u64>,
    /// How many ended tasks are kept.
    pub keep_tasks: Option<u64>,
    /// How long ended tasks are kept, in hours.
    pub keep_hours: Option<u64>,
    /// How long running tasks may go on when the node is told to stop.
    pub drain_seconds: Option<u64>,
    /// Whether what is pushed or mirrored is compiled when it comes.
    pub compile_on_arrival: Option<bool>,
    /// How many of those are compiled at once.
    pub compile_at_once: Option<usize>,
    /// The largest Wasm that is compiled on arrival, in bytes.
    pub compile_largest_bytes: Option<u64>,
    /// The memory that compiling may take together, in bytes.
    pub compile_memory_bytes: Option<u64>,
    /// Compile nothing: run only what is compiled already, or comes so from a signer with the right to that.
    pub compiled_only: Option<bool>,
    /// The most of the network that submits may ask for; an empty list for none.
    pub allow_net_at_most: Option<Vec<String>>,
    /// Whether each task gets a signed receipt.
    pub receipts: Option<bool>,
    /// Whether the node confines itself: `auto`, `required` or `off`.
    pub confine: Option<String>,
}

/// The `[registry]` part of `config.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RegistryFile {
    /// Hosts (with port) that speak plain HTTP. Loopback hosts do without being named.
    pub plain_http: Vec<String>,
    /// PEM files with further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// How long a connection may take to open.
    pub connect_timeout_seconds: Option<u64>,
    /// How long a registry may be silent.
    pub read_timeout_seconds: Option<u64>,
    /// How often a transient failure is tried again.
    pub retries: Option<usize>,
    /// How many blobs move at once.
    pub concurrency: Option<usize>,
}

/// What the command line said; these win over everything else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--home`.
    pub home: Option<PathBuf>,
    /// `--trust-policy`.
    pub trust_policy: Option<PathBuf>,
    /// `--offline`.
    pub offline: bool,
    /// `--plain-http`.
    pub plain_http: bool,
    /// `--ca-file`.
    pub ca_files: Vec<PathBuf>,
    /// `--container-engine`.
    pub container_engine: Option<PathBuf>,
    /// `--without`.
    pub without: Vec<String>,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data folder.
    pub home: Home,
    /// The trust policy file, which may not exist.
    pub trust_policy: PathBuf,
    /// Whether the user named that file: then it must exist.
    pub trust_policy_named: bool,
    /// Never touch the network.
    pub offline: bool,
    /// All registries speak plain HTTP.
    pub plain_http: bool,
    /// What `config.toml` says of registries, with the flags' CA files added.
    pub registry: RegistryFile,
    /// The folder of Docker's `config.json`, where there is one.
    pub docker_config: Option<PathBuf>,
    /// The most that compiled code may take on disk, in bytes.
    pub code_cache_bytes: u64,
    /// The node's settings.
    pub serve: ServeFile,
    /// Which repositories of the own registry mirror others.
    pub mirrors: Vec<MirrorFile>,
    /// What synced states do.
    pub state: StateFile,
    /// What runs containers, where somebody has said so.
    pub container_engine: Option<PathBuf>,
    /// Packages of WASI that no guest is given.
    pub without: Vec<String>,
}

impl Config {
    /// Loads the settings, once a process.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the settings file can't be parsed or no home can be found.
    pub fn load(flags: Flags) -> Result<Self> {
        let home = match flags.home.or_else(|| EnvVars::get(EnvVars::VYR_HOME).map(PathBuf::from)) {
            Some(path) => path,
            None => default_home()?,
        };
        let home = Home::new(absolute(&home)?);
        let named = EnvVars::get(EnvVars::VYR_CONFIG).map(PathBuf::from);
        let file = read_file(named.as_deref().unwrap_or(&home.config_file()), named.is_some())?;
        let offline_variable = EnvVars::get(EnvVars::VYR_OFFLINE).map(|v| v != "0");
        let policy = flags
            .trust_policy
            .or_else(|| EnvVars::get(EnvVars::VYR_TRUST_POLICY).map(PathBuf::from))
            .or(file.trust_policy.map(|p| home.root().join(p)));
        check_mirrors(&file.mirror)?;
        let without: Vec<String> = flags.without.into_iter().chain(file.without).collect();
        check_without(&without)?;
        let mut registry = file.registry;
        registry.ca_files.extend(flags.ca_files);
        Ok(Self {
            trust_policy_named: policy.is_some(),
            trust_policy: policy.unwrap_or_else(|| home.trust_file()),
            offline: flags.offline || offline_variable.or(file.offline).unwrap_or(false),
            plain_http: flags.plain_http,
            registry,
            docker_config: EnvVars::get(EnvVars::DOCKER_CONFIG)
                .map(PathBuf::from)
                .or_else(|| etcetera::home_dir().ok().map(|h| h.join(".docker"))),
            code_cache_bytes: file.code_cache_bytes.unwrap_or(4 << 30),
            serve: file.serve,
            mirrors: file.mirror,
            state: file.state,
            without,
            container_engine: flags
                .container_engine
                .or_else(|| EnvVars::get(EnvVars::VYR_CONTAINER_ENGINE).map(PathBuf::from))
                .or(file.container_engine),
            home,
        })
    }

    /// How long a connection to a registry may take to open.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.registry.connect_timeout_seconds.unwrap_or(10))
    }

    /// How long a registry may be silent.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.registry.read_timeout_seconds.unwrap_or(30))
    }
}

/// The packages of WASI that guests may be kept from.
pub const WITHHOLDABLE: [&str; 2] = ["wasi:keyvalue", "wasi:sockets"];

/// One that isn't known would be given all the same.
fn check_without(without: &[String]) -> Result<()> {
    match without.iter().find(|package| !WITHHOLDABLE.contains(&package.as_str())) {
        Some(package) => Err(Error::new(ErrorKind::Usage, format!("guests can't be kept from `{package}`"))
            .hint(format_args!("`without` takes {}", WITHHOLDABLE.join(" and ")))),
        None => Ok(()),
    }
}

fn default_home() -> Result<PathBuf> {
    use etcetera::BaseStrategy as _;
    etcetera::choose_base_strategy().map(|base| base.data_dir().join("vyr")).map_err(|e| {
        Error::new(ErrorKind::Usage, format!("no home folder was found: {e}")).hint("set VYR_HOME to a folder")
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("the data folder {} can't be used: {e}", path.display())))
}

fn read_file(path: &Path, must_exist: bool) -> Result<File> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(File::default()),
        Err(e) => {
            let error =
                Error::new(ErrorKind::Usage, format!("the settings file {} can't be read: {e}", path.display()));
            return Err(error.hint(match (e.kind(), must_exist) {
                (std::io::ErrorKind::PermissionDenied, false) => {
                    "the data folder is somebody else's: use one of your own, by --home or VYR_HOME"
                }
                _ => "name one that you may read with VYR_CONFIG, or unset it",
            }));
        }
    };
    toml::from_str(&text).map_err(|e| {
        Error::new(
            ErrorKind::Usage,
            format!("the settings file {} is malformed: {}", path.display(), e.to_string().trim_end()),
        )
        .hint("see docs/configuration.md for the settings there are")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_that_can_not_work_are_refused() {
        let mirrors = |all: &[(&str, &str)]| -> Vec<MirrorFile> {
            let file = |(prefix, upstream): &(&str, &str)| MirrorFile {
                prefix: (*prefix).to_owned(),
                upstream: (*upstream).to_owned(),
            };
            all.iter().map(file).collect()
        };
        for bad in [
            vec![("", "ghcr.io")],
            vec![("UP", "ghcr.io")],
            vec![("a/../b", "ghcr.io")],
            vec![("a", "")],
            vec![("a", "not a host")],
            vec![("a", "word/path")],
            vec![("a", "https://ghcr.io")],
            vec![("a", "ghcr.io"), ("a", "quay.io")],
        ] {
            assert!(check_mirrors(&mirrors(&bad)).is_err(), "{bad:?}");
        }
        let good = [("ghcr", "ghcr.io"), ("ghcr/ours", "example.com:5000/team"), ("hub", "docker.io/library")];
        assert!(check_mirrors(&mirrors(&good)).is_ok());
    }

    #[test]
    fn only_what_can_be_withheld_may_be_named() {
        assert!(check_without(&[]).is_ok() && check_without(&["wasi:sockets".into()]).is_ok());
        assert!(check_without(&["wasi:socket".into()]).is_err_and(|e| e.to_string().contains("`wasi:socket`")));
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "ofline = true\n").expect("write");
        let error = read_file(&path, false).map_err(|e| e.to_string());
        assert!(error.as_ref().is_err_and(|e| e.contains("ofline")), "{error:?}");
        assert!(read_file(&folder.path().join("none.toml"), false).is_ok());
        assert!(read_file(&folder.path().join("none.toml"), true).is_err());
    }
}
