//! `vyr serve` and `vyr token`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::sync::watch;
use vyr_oci_fallback::keeper::outside::Bounds;

use super::Session;
use super::args::{duration, size};
use crate::config::{EnvVars, ServeFile};
use crate::confine::{self, Files, Mode, Outside, Tools};
use crate::engine::{NetRule, most_of_net};
use crate::error::{Error, ErrorKind, Result};
use crate::node::{Lock, Node, Options};
use crate::ops::own::Announced;
use crate::ops::{Logged, Vyr};
use crate::server::{Limits, Listen, Server, TlsFiles, Tokens};
use crate::telemetry;
use crate::trust::TrustPolicy;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where to listen [default: 127.0.0.1:7070]; off loopback only with TLS and a credential [env: VYR_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// The Unix socket [default: node.sock in the data folder]
    #[arg(long, value_name = "PATH", conflicts_with = "no_socket")]
    socket: Option<PathBuf>,
    /// Listen on no Unix socket
    #[arg(long)]
    no_socket: bool,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let clients in whose certificate is signed by this authority, PEM
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Let clients in that have a token in this file; see `vyr token`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody read this repository of the registry and what is below it; `*` for all; may be repeated
    #[arg(long, value_name = "PREFIX")]
    anonymous_read: Vec<String>,
    /// How many connections may be open at once, by the port and by the socket each [default: half of the descriptors that the process may have, at most 16384]
    #[arg(long, value_name = "NUMBER")]
    max_connections: Option<usize>,
    /// A name of this node besides those of the machine, under which it answers who shows no credential; may be repeated
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    host_name: Vec<String>,
    /// How many tasks are prepared or run at once [default: 2048]
    #[arg(long, value_name = "NUMBER")]
    max_running: Option<u32>,
    /// How many tasks wait at most [default: 100000]
    #[arg(long, value_name = "NUMBER")]
    max_queued: Option<usize>,
    /// The linear memory that guests hold together at most [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_budget: Option<u64>,
    /// How many ended tasks are kept [default: 2000000]
    #[arg(long, value_name = "NUMBER")]
    keep_tasks: Option<u64>,
    /// How long ended tasks are kept [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    keep_for: Option<Duration>,
    /// How long running tasks may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    drain: Option<Duration>,
    /// Whether what is pushed or mirrored is compiled when it comes, before anybody runs it [default: true]
    #[arg(long, value_name = "BOOL")]
    compile_on_arrival: Option<bool>,
    /// Compile nothing: run only what is compiled already, or comes so from a signer with the right to that
    #[arg(long)]
    compiled_only: bool,
    /// Let submits overrule the trust policy with --allow-unsigned; each is recorded
    #[arg(long)]
    allow_unsigned: bool,
    /// The most of the network that submits may ask for by --allow-net; may be repeated; `none` for no network [default: whatever they ask for] [env: VYR_ALLOW_NET_AT_MOST]
    #[arg(long, value_name = "HOST:PORT")]
    allow_net_at_most: Vec<String>,
    /// Make no signed receipts of tasks
    #[arg(long)]
    no_receipts: bool,
    /// Whether the node keeps itself from files and system calls that it doesn't need: auto as far as the kernel can, required wholly or it doesn't start, off [default: auto] [env: VYR_CONFINE]
    #[arg(long, value_name = "MODE", value_parser = ["auto", "required", "off"])]
    confine: Option<String>,
    /// Write the address in use to this file when the node is ready
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    #[arg(skip)]
    begun: Option<Begun>,
}

/// What is there before the runtime is: sockets that are bound, and a process that is confined.
#[derive(Debug)]
struct Begun {
    listen: Listen,
    options: Options,
    vyr: Vyr,
    lock: Lock,
    server: Server,
    /// Does what a confined process can't.
    outside: Option<Outside>,
    remarks: Vec<Remark>,
}

/// Said when the node listens, and not before an error that keeps it from that.
#[derive(Debug)]
enum Remark {
    Note(String),
    Warning(String),
}

impl Serve {
    fn options(&self, session: &Session) -> Result<Options> {
        let file = &session.vyr.config().serve;
        let defaults = Options::default();
        Ok(Options {
            max_running: self.max_running.or(file.max_running).unwrap_or(defaults.max_running).max(1),
            max_queued: self.max_queued.or(file.max_queued).unwrap_or(defaults.max_queued),
            memory_budget: self.memory_budget.or(file.memory_budget_bytes).unwrap_or(defaults.memory_budget),
            keep_tasks: self.keep_tasks.or(file.keep_tasks).unwrap_or(defaults.keep_tasks),
            keep_for: self
                .keep_for
                .or(file.keep_hours.map(|hours| Duration::from_secs(hours.saturating_mul(3600))))
                .unwrap_or(defaults.keep_for),
            drain: self.drain.or(file.drain_seconds.map(Duration::from_secs)).unwrap_or(defaults.drain),
            allow_unsigned: self.allow_unsigned,
            allow_net_at_most: self.allow_net_at_most(file)?,
            compile_on_arrival: self
                .compile_on_arrival
                .or(file.compile_on_arrival)
                .unwrap_or(defaults.compile_on_arrival),
            compile_at_once: file.compile_at_once.unwrap_or(defaults.compile_at_once).max(1),
            compile_largest: file.compile_largest_bytes.unwrap_or(defaults.compile_largest),
            compile_memory: file.compile_memory_bytes.unwrap_or(defaults.compile_memory),
            compiled_only: self.compiled_only || file.compiled_only.unwrap_or(false),
            receipts: !self.no_receipts && file.receipts.unwrap_or(true),
            ..defaults
        })
    }

    /// The flags, else the variable, else the settings file, whose empty list is no network at all.
    fn allow_net_at_most(&self, file: &ServeFile) -> Result<Option<Vec<NetRule>>> {
        if !self.allow_net_at_most.is_empty() {
            return most_of_net(&self.allow_net_at_most).map(Some);
        }
        if let Some(text) = EnvVars::get(EnvVars::VYR_ALLOW_NET_AT_MOST) {
            let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).collect();
            return most_of_net(&words).map(Some);
        }
        file.allow_net_at_most.as_deref().map(most_of_net).transpose()
    }

    fn listen(&self, session: &Session) -> Result<Listen> {
        let config = session.vyr.config();
        let file = &config.serve;
        let under = |path: &PathBuf| config.home.root().join(path);
        let address = match (self.listen, EnvVars::get(EnvVars::VYR_LISTEN), &file.listen) {
            (Some(address), _, _) => address,
            (None, Some(text), _) => listen_address(&text)?,
            (None, None, Some(text)) => listen_address(text)?,
            (None, None, None) => SocketAddr::from(([127, 0, 0, 1], 7070)),
        };
        let certificate = self.tls_cert.clone().or(file.tls_cert.as_ref().map(under));
        let key = self.tls_key.clone().or(file.tls_key.as_ref().map(under));
        let client_ca = self.client_ca.clone().or(file.client_ca.as_ref().map(under));
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_ca }),
            (None, None) if client_ca.is_none() => None,
            _ => {
                return Err(Error::new(ErrorKind::Usage, "TLS needs a certificate and its key")
                    .hint("give both --tls-cert and --tls-key"));
            }
        };
        Ok(Listen {
            address,
            socket: (!self.no_socket).then(|| self.socket.clone().unwrap_or_else(|| config.home.node_socket())),
            tls,
            tokens: self.token_file.clone().or(file.token_file.as_ref().map(under)),
            anonymous: match if self.anonymous_read.is_empty() { &file.anonymous_read } else { &self.anonymous_read } {
                none if none.is_empty() => None,
                prefixes => Some(Limits::new(prefixes, &[])?),
            },
            secret: session.vyr.secret()?.clone(),
            max_connections: self.max_connections.or(file.max_connections).unwrap_or_else(max_connections),
            host_names: match self.host_name.is_empty() {
                true => file.host_names.iter().map(|name| host_name(name)).collect::<Result<_>>()?,
                false => self.host_name.clone(),
            },
        })
    }

    fn mode(&self, file: &ServeFile) -> Result<Mode> {
        let named =
            self.confine.clone().or_else(|| EnvVars::get(EnvVars::VYR_CONFINE)).or_else(|| file.confine.clone());
        named.map_or(Ok(Mode::default()), |text| text.parse())
    }

    /// What comes before the runtime, while this process has one thread: a Landlock domain is its own and its children's.
    pub(super) fn begin(&mut self, session: &Session) -> Result<()> {
        let listen = self.listen(session)?;
        let mut options = self.options(session)?;
        let mode = self.mode(&session.vyr.config().serve)?;
        let vyr = Vyr::new(session.vyr.config().clone(), Arc::new(Logged));
        // In this order: a node that can't be reached must not take up tasks, and only who serves the folder may replace
        // its socket.
        let lock = Lock::acquire(&vyr.config().home)?;
        let server = Server::bind(&listen)?;
        let mut remarks = Vec::new();
        let (outside, confined_by) = match mode {
            Mode::Off => (None, Vec::new()),
            Mode::Auto | Mode::Required => self.confine(mode, &vyr, &listen, &mut remarks)?,
        };
        options.confined_by = confined_by;
        self.begun = Some(Begun { listen, options, vyr, lock, server, outside, remarks });
        Ok(())
    }

    /// Confines this process; what is to be said of that, the first in one line, is added to `remarks`.
    fn confine(
        &self,
        mode: Mode,
        vyr: &Vyr,
        listen: &Listen,
        remarks: &mut Vec<Remark>,
    ) -> Result<(Option<Outside>, Vec<String>)> {
        let files = self.files(vyr, listen);
        // Both start processes.
        vyr.prepare_containers();
        let outside = match Outside::start(&self.tools(vyr, listen)) {
            Err(e) if mode == Mode::Auto => {
                remarks.push(Remark::Warning(format!("this node is not confined: {}", e.why())));
                return Ok((None, Vec::new()));
            }
            other => other?,
        };
        let confinement = confine::apply(mode, &files)?;
        remarks.push(Remark::Note(confinement.to_string()));
        let mut warn = |words: String| remarks.push(Remark::Warning(words));
        for what in &confinement.lacking {
            warn(format!("this node is not wholly confined: {what}"));
        }
        if confinement.landlock.is_some() {
            for file in files.alone() {
                warn(format!(
                    "{} lies in a folder that a confined node doesn't read: if it is exchanged, that counts from the next start",
                    file.display()
                ));
            }
            for link in files.links_out() {
                warn(format!(
                    "{} leads out of the data folder, where a confined node follows no link: mount it there, or give --confine off",
                    link.display()
                ));
            }
        }
        Ok((Some(outside), confinement.words()))
    }

    /// What the node opens later, by paths that it was given.
    fn files(&self, vyr: &Vyr, listen: &Listen) -> Files {
        let config = vyr.config();
        let mut files = Files::new(config.home.root(), etcetera::home_dir().ok());
        let tls = listen.tls.iter().flat_map(|tls| [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()]);
        let authority = EnvVars::get(EnvVars::SSL_CERT_FILE).map(PathBuf::from);
        let given = tls.flatten().chain(&listen.tokens).chain(&config.registry.ca_files).chain(&authority);
        for path in given {
            files.file(path);
        }
        // In the data folder anyway, where nobody has named another.
        if config.trust_policy != config.home.trust_file() {
            files.file(&config.trust_policy);
        }
        // One that can't be read is said by whoever needs it.
        for path in TrustPolicy::load_or_default(&config.trust_policy).map(|policy| policy.files()).unwrap_or_default()
        {
            files.file(&path);
        }
        for folder in EnvVars::get(EnvVars::SSL_CERT_DIR).iter().flat_map(|folders| folders.split(':')) {
            files.folder(Path::new(folder));
        }
        if let Some(docker) = &config.docker_config {
            files.file(&docker.join("config.json"));
        }
        if EnvVars::get(EnvVars::NOTIFY_SOCKET).is_some_and(|socket| socket.starts_with('@')) {
            files.tells_by_abstract_socket();
        }
        files
    }

    fn tools(&self, vyr: &Vyr, listen: &Listen) -> Tools {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let home = vyr.config().home.root();
        let engines = vyr.machine().engines.clone();
        Tools {
            containers: (!engines.is_empty()).then(|| Bounds { folder: home.to_owned(), engines }),
            docker_config: vyr.config().docker_config.as_ref().map(absolute),
            helpers: Tools::helpers(vyr.config().docker_config.as_deref()),
            address_file: self.address_file.as_ref().map(absolute),
            socket: listen.socket.as_ref().map(absolute).filter(|socket| !socket.starts_with(home)),
        }
    }

    pub(super) async fn execute(mut self: Box<Self>, session: &Session) -> Result<u8> {
        let attempted = |e: Error| e.attempted("start the node");
        let begun = self.begun.take();
        let begun = begun.ok_or_else(|| Error::new(ErrorKind::Internal, "it was not begun")).map_err(attempted)?;
        let Begun { listen, options, vyr, lock, server, outside, remarks } = begun;
        let settings = super::telemetry_settings(session.printer, true);
        let (metrics, sent) = telemetry::install_metrics(&settings)?;
        let asked = options.max_running;
        let address = server.address()?;
        // So that runs from this data folder know which references are its own registry's; and before tasks are taken up, which a
        // node that does not come to be must leave alone.
        let _announced = Announced::new(&session.vyr.config().home, address).map_err(attempted)?;
        let node = Node::open(vyr, options, lock).await.map_err(attempted)?;
        let fits = node.max_running();
        // Before anybody is told that the node is there: from then on a signal may come, and counts.
        let signals = signals().map_err(attempted)?;
        for remark in remarks {
            match remark {
                Remark::Note(words) => session.printer.note(&words),
                Remark::Warning(words) => session.printer.warning(&words),
            }
        }
        if let Some(path) = &self.address_file {
            match &outside {
                Some(outside) => outside.ready(address)?,
                None => confine::write_address(path, address)?,
            }
        }
        let also = listen.socket.as_ref().map(|path| format!(" and {}", path.display())).unwrap_or_default();
        session.printer.note(&format!("listening on {address}{also}"));
        if let Some(why) = server.out_of_time() {
            session.printer.warning(&format!("clients will not take this node's certificate: {why}"));
        }
        if fits < asked {
            session.printer.warning(&format!(
                "this machine's addresses don't do for {asked} guests at once; at most {fits} run at a time"
            ));
        }
        // Fails where nobody waits for it: outside of systemd.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let stop = async {
            at_least(&signals, 1).await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            session.printer.note("stopping: running tasks may finish; a second signal ends at once");
        };
        let cancelled = tokio::select! {
            cancelled = server.run(node, metrics, stop) => cancelled?,
            () = at_least(&signals, 2) => {
                session.printer.warning("ended at once; the next start records what was running");
                return Ok(130);
            }
        };
        if let Some(outside) = outside {
            outside.farewell();
        }
        // Nothing depends on the collector.
        drop(sent.map(|sent| sent.shutdown_with_timeout(telemetry::GOODBYE)));
        if cancelled > 0 {
            session.printer.warning(&format!("{cancelled} tasks did not finish in time and were cancelled"));
        }
        Ok(0)
    }
}

/// An address to listen on: `localhost` is what it is everywhere.
fn listen_address(text: &str) -> Result<SocketAddr> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        Error::new(ErrorKind::Usage, format!("`{text}` is no address to listen on"))
            .hint("write ADDRESS:PORT with an address in numbers, as 127.0.0.1:7070 or [::1]:7070")
    })
}

/// Guests, files and registries need descriptors as well.
fn max_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((limit / 2).clamp(64, 16_384)).unwrap_or(64)
}

/// A name that a request may be for, without a port.
fn host_name(text: &str) -> Result<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match !text.is_empty() && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(Error::new(ErrorKind::Usage, format!("`{text}` is no host name"))
            .hint("write the name alone, without scheme and port, as node.example")),
    }
}

/// How many signals to end have come.
fn signals() -> Result<watch::Receiver<u32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|e| Error::new(ErrorKind::Internal, format!("signals can't be listened for: {e}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            count.send_modify(|so_far| *so_far += 1);
        }
    });
    Ok(counted)
}

async fn at_least(signals: &watch::Receiver<u32>, count: u32) {
    // Its other end lives as long as the runtime.
    drop(signals.clone().wait_for(|so_far| *so_far >= count).await);
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token and print it, once; the file keeps its hash
    Add(TokenAdd),
    /// List the tokens by their names, with what each may do
    Ls(TokenFile),
    /// Take a token out; it is refused from the next call on
    Rm(TokenName),
}

#[derive(Debug, Args)]
pub(super) struct TokenName {
    /// Whose it is: tasks show it as their submitter
    name: String,
    #[command(flatten)]
    file: TokenFile,
}

#[derive(Debug, Args)]
pub(super) struct TokenAdd {
    #[command(flatten)]
    token: TokenName,
    /// Only for the registry, to read this repository and what is below it; `*` for all; may be repeated
    #[arg(long, value_name = "PREFIX")]
    read: Vec<String>,
    /// Only for the registry, to push to, delete from and read this repository and what is below it; may be repeated
    #[arg(long, value_name = "PREFIX")]
    write: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TokenFile {
    /// The token file [default: tokens in the data folder]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Added {
    name: String,
    token: String,
}

#[derive(Serialize)]
struct Known {
    name: String,
    /// Whether it is for the API as well.
    api: bool,
    read: Vec<String>,
    write: Vec<String>,
}

impl Known {
    fn new(name: String, limits: Option<&Limits>) -> Self {
        let all = || vec!["*".to_owned()];
        let (read, write) = limits.map_or_else(|| (all(), all()), Limits::prefixes);
        Self { name, api: limits.is_none(), read, write }
    }
}

impl Token {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        let path = |file: TokenFile| file.file.unwrap_or_else(|| session.vyr.config().home.root().join("tokens"));
        match self {
            Self::Add(words) => {
                let limits = match words.read.is_empty() && words.write.is_empty() {
                    true => None,
                    false => Some(Limits::new(&words.read, &words.write)?),
                };
                let TokenName { name, file } = words.token;
                let added = Added { token: Tokens::add(&path(file), &name, limits)?, name };
                session.printer.result(&added, || added.token.clone())?;
            }
            Self::Ls(file) => {
                let known = Tokens::list(&path(file))?.into_iter();
                let known: Vec<Known> = known.map(|(name, limits)| Known::new(name, limits.as_ref())).collect();
                session.printer.list(&known, &["name", "api", "read", "write"], |known| {
                    let api = if known.api { "yes" } else { "no" };
                    vec![known.name.clone(), api.to_owned(), known.read.join("\n"), known.write.join("\n")]
                })?;
            }
            Self::Rm(words) => Tokens::remove(&path(words.file), &words.name)?,
        }
        Ok(0)
    }
}
