//! Owns the operations, one file each. A command line and a remote call are translations into these, so they can't
//! disagree. An operation knows no terminal: what it has to say while it works goes to a [`Reporter`].

pub mod audit;
pub mod backup;
pub mod bundle;
pub mod compile;
mod compiling;
pub mod container;
pub mod doctor;
pub mod inspect;
pub mod mirror;
pub mod new;
pub mod own;
pub mod prepare;
pub mod pull;
pub mod push;
pub mod put;
mod ready;
pub mod receipt;
pub mod repair;
pub mod replay;
pub mod resolve;
pub mod run;
pub mod sign;
pub mod state;
pub mod transfer;
pub mod trust;
pub mod verify;
pub mod warm;

pub use compiling::{Compiling, give_way};
pub(crate) use pull::blocking;

use std::sync::{Arc, OnceLock};

use tokio::sync::OnceCell;
use vyr_oci_fallback::probe::{self, Machine};
use vyr_oci_fallback::snapshot::Snapshots;

use crate::config::{Config, EnvVars, Secret};
use crate::engine::{CodeCache, Engine, EngineOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::registry::{Client, ClientOptions, DockerConfig, HeaderSource, Progress, ProxySettings};
use crate::state::States;
use crate::store::{Layout, Store};
use crate::telemetry;

/// Hears what an operation has to say while it works.
pub trait Reporter: Send + Sync + std::fmt::Debug {
    /// A remark that the user should see once.
    fn note(&self, text: &str);
    /// A remark that the user must not miss.
    fn warning(&self, text: &str);
    /// Long work begins on something of `total` bytes; what is returned hears how far it is.
    fn begin(&self, what: &str, total: u64) -> Box<dyn Progress>;
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn note(&self, _text: &str) {}
    fn warning(&self, _text: &str) {}
    fn begin(&self, _what: &str, _total: u64) -> Box<dyn Progress> {
        Box::new(())
    }
}

/// Says it where this process's log goes: what serves has nobody before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logged;

impl Reporter for Logged {
    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }
    fn warning(&self, text: &str) {
        tracing::warn!("{text}");
    }
    fn begin(&self, _what: &str, _total: u64) -> Box<dyn Progress> {
        Box::new(())
    }
}

/// What every operation works with: the settings, the store and the registry client, each opened at first need.
#[derive(Debug)]
pub struct Vyr {
    config: Config,
    reporter: Arc<dyn Reporter>,
    layout: Layout,
    store: OnceCell<Store>,
    states: OnceCell<States>,
    client: OnceLock<Client>,
    sync_client: OnceLock<Client>,
    secret: OnceLock<Secret>,
    flights: mirror::Flights,
    engine_options: EngineOptions,
    compiling: Option<Compiling>,
    engine: OnceLock<Engine>,
    deterministic_engine: OnceLock<Engine>,
    machine: OnceLock<Machine>,
    snapshots: OnceLock<Snapshots>,
}

impl Vyr {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(config: Config, reporter: Arc<dyn Reporter>) -> Self {
        let layout = Layout::at(config.home.root());
        Self {
            config,
            reporter,
            layout,
            store: OnceCell::new(),
            states: OnceCell::new(),
            client: OnceLock::new(),
            sync_client: OnceLock::new(),
            secret: OnceLock::new(),
            flights: mirror::Flights::default(),
            engine_options: EngineOptions::default(),
            compiling: None,
            engine: OnceLock::new(),
            deterministic_engine: OnceLock::new(),
            machine: OnceLock::new(),
            snapshots: OnceLock::new(),
        }
    }

    /// The same, for a process that runs many guests.
    #[must_use]
    pub fn with_engine_options(mut self, options: EngineOptions) -> Self {
        self.engine_options = options;
        self
    }

    /// The same, for a process in which others begin runs: no more is compiled at a time than that.
    #[must_use]
    pub fn with_compiling(mut self, compiling: Compiling) -> Self {
        self.compiling = Some(compiling);
        self
    }

    /// The bounds of what is compiled at a time; `None` where only this user's own wish is.
    pub(super) fn compiling(&self) -> Option<&Compiling> {
        self.compiling.as_ref()
    }

    /// The Wasm runtime.
    ///
    /// # Errors
    /// [`ErrorKind::CannotStart`]: this machine's CPU or address space doesn't do.
    pub fn engine(&self) -> Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(&self.options())?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// The Wasm runtime for guests whose output is to be the same everywhere, or else the usual one. Code that is compiled
    /// by one is not the other's.
    ///
    /// # Errors
    /// As [`Vyr::engine`].
    pub fn engine_for(&self, deterministic: bool) -> Result<&Engine> {
        if !deterministic {
            return self.engine();
        }
        if let Some(engine) = self.deterministic_engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(&EngineOptions { deterministic: true, pooling: false, ..self.options() })?;
        Ok(self.deterministic_engine.get_or_init(|| engine))
    }

    /// What this machine can do with containers, looked at once. Blocks for some milliseconds the first time.
    pub fn machine(&self) -> &Machine {
        self.machine.get_or_init(|| {
            let memo = self.config.home.machine_memo();
            let kept = std::fs::read_to_string(&memo).ok();
            let (machine, new) = probe::look_briefly(self.config.container_engine.as_deref(), kept.as_deref());
            // It saves time alone, so a failure is no matter.
            if let Some(new) = new
                && let Some(folder) = memo.parent()
                && std::fs::create_dir_all(folder).is_ok()
                && let Ok(mut file) = tempfile::NamedTempFile::new_in(folder)
                && std::io::Write::write_all(&mut file, new.as_bytes()).is_ok()
            {
                drop(file.persist(&memo));
            }
            machine
        })
    }

    /// The same, where somebody has looked already.
    #[must_use]
    pub fn machine_if_known(&self) -> Option<&Machine> {
        self.machine.get()
    }

    /// The unpacked layers of images.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when their folder can't be made.
    pub fn snapshots(&self) -> Result<&Snapshots> {
        if let Some(snapshots) = self.snapshots.get() {
            return Ok(snapshots);
        }
        let root = self.config.home.snapshots();
        let machine = self.machine();
        let opened = Snapshots::open(&root, machine.method, machine.rights)
            .map_err(|e| Error::new(ErrorKind::Storage, format!("the folder {} can't be used: {e}", root.display())))?;
        Ok(self.snapshots.get_or_init(|| opened))
    }

    fn options(&self) -> EngineOptions {
        EngineOptions { without: self.config.without.clone(), ..self.engine_options.clone() }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Who hears remarks.
    #[must_use]
    pub fn reporter(&self) -> &dyn Reporter {
        &*self.reporter
    }

    /// The mirror's pulls under way.
    pub(super) fn flights(&self) -> &mirror::Flights {
        &self.flights
    }

    /// The store's files, without its database.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store.
    ///
    /// # Errors
    /// When it can't be opened or made.
    pub async fn store(&self) -> Result<&Store> {
        self.store.get_or_try_init(|| async { Store::open(self.config.home.root()).await.map_err(Error::from) }).await
    }

    /// Another number once this process has learnt of a new origin of something in the store.
    #[must_use]
    pub fn origins_version(&self) -> u64 {
        self.store.get().map_or(0, Store::origins_version)
    }

    /// The states.
    ///
    /// # Errors
    /// When their database can't be opened or made.
    pub async fn states(&self) -> Result<&States> {
        self.states.get_or_try_init(|| async { States::open(self.config.home.root()).await.map_err(Error::from) }).await
    }

    /// The registry client.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the network is forbidden; [`ErrorKind::Usage`] for settings it can't use.
    pub fn client(&self, wanted: &Reference) -> Result<&Client> {
        if self.config.offline {
            return Err(Error::new(ErrorKind::Unavailable, "the network is forbidden (--offline)").hint(format_args!(
                "run `vyr pull {wanted}` while there is a network, or `vyr import` it from a folder"
            )));
        }
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(self.client_options())?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The registry client that states are synced by: it sends no faster than it may.
    ///
    /// # Errors
    /// As [`Vyr::client`].
    pub(crate) fn sync_client(&self) -> Result<&Client> {
        if self.config.offline {
            return Err(Error::new(ErrorKind::Unavailable, "the network is forbidden (--offline)")
                .hint("what is sealed waits; sync it when there is a network"));
        }
        if let Some(client) = self.sync_client.get() {
            return Ok(client);
        }
        let bytes_per_second = self.config.state.sync_bytes_per_second;
        let client = Client::new(ClientOptions { bytes_per_second, ..self.client_options() })?;
        Ok(self.sync_client.get_or_init(|| client))
    }

    /// The secret that this node's caches are sealed with, made at first use.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn secret(&self) -> Result<&Secret> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let secret = Secret::read_or_create(&self.config.home)?;
        Ok(self.secret.get_or_init(|| secret))
    }

    fn client_options(&self) -> ClientOptions {
        let config = &self.config;
        let defaults = ClientOptions::default();
        ClientOptions {
            plain_http: config.plain_http,
            plain_hosts: config.registry.plain_http.clone(),
            ca_files: config.registry.ca_files.clone(),
            connect_timeout: config.connect_timeout(),
            read_timeout: config.read_timeout(),
            retries: config.registry.retries.unwrap_or(defaults.retries),
            concurrency: config.registry.concurrency.unwrap_or(defaults.concurrency),
            docker_config: config.docker_config.clone().map_or(DockerConfig::Anonymous, DockerConfig::Folder),
            proxy: ProxySettings {
                https: EnvVars::first(&[EnvVars::HTTPS_PROXY, "https_proxy"]),
                http: EnvVars::get(EnvVars::HTTP_PROXY),
                no_proxy: EnvVars::first(&[EnvVars::NO_PROXY, "no_proxy"]),
            },
            headers: Some(HeaderSource(Arc::new(|headers| {
                if let Some(value) = telemetry::current_traceparent().and_then(|v| v.parse().ok()) {
                    headers.insert("traceparent", value);
                }
            }))),
            ..defaults
        }
    }

    /// The cache of compiled code.
    ///
    /// # Errors
    /// When the node's secret can't be read or made.
    pub fn code_cache(&self) -> Result<CodeCache> {
        Ok(CodeCache::open(self.config.home.cache(), &self.secret()?.derive("vyr code cache v1")))
    }
}
