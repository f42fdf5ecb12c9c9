//! Owns the node's one port and its Unix socket: gRPC, the OCI registry, the status page, health, reflection and metrics,
//! and who may call them. Calls are translated into what `node` and `store` do; nothing is decided here but access.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::node::Node;

mod access;
mod answer;
mod control;
mod distribution;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzed;
mod host;
mod opening;
mod page;
mod put;
mod silence;
mod states;
mod status;
mod tls;

#[cfg(test)]
pub(crate) use status::code as grpc_code;

pub use access::{Limits, Tokens};
pub use tls::TlsFiles;

use access::{Access, Peer};
use host::Names;
use opening::Opening;
use tls::Tls;

/// How long connections may take to end after everything else has.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may take for its first bytes, and how long for the headers of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long the other side of a TCP connection may be gone without a word: asked for after the first of these, again and again
/// after the second, and given up after the third. As long nobody may leave untaken what was sent to them.
const PROBES: (Duration, Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(10), Duration::from_secs(60));
/// How often it's said that connections are closed.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// How many calls one connection may have under way.
const STREAMS: u32 = 1024;
/// How many connections may wait to be accepted, by the address and by the socket each.
const BACKLOG: i32 = 1024;
/// The largest set of request headers, in bytes.
const HEADERS: u32 = 32 << 10;

/// Where to listen, and who may call.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The TCP address.
    pub address: SocketAddr,
    /// The Unix socket, which only this user can open.
    pub socket: Option<PathBuf>,
    /// Certificate and key, and who may come with a certificate of their own.
    pub tls: Option<TlsFiles>,
    /// The file of bearer tokens.
    pub tokens: Option<PathBuf>,
    /// What of the registry may be read without one.
    pub anonymous: Option<Limits>,
    /// What short-lived tokens are sealed with.
    pub secret: Secret,
    /// How many connections may be open at once, by the address, and as many by the socket.
    pub max_connections: usize,
    /// Names of this node besides those of the machine, under which it answers who shows no credential.
    pub host_names: Vec<String>,
}

/// A bound server.
pub struct Server {
    tcp: std::net::TcpListener,
    unix: Option<(std::os::unix::net::UnixListener, PathBuf)>,
    tls: Option<Arc<Tls>>,
    access: Arc<Access>,
    names: Names,
    max_connections: usize,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("tcp", &self.tcp).field("unix", &self.unix).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds. From here on connections queue up. Needs no runtime: a node binds before it has threads.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an address off loopback without TLS and credentials, and for files that can't be used;
    /// [`ErrorKind::Conflict`] for an address that is taken.
    pub fn bind(listen: &Listen) -> Result<Self> {
        let secured = listen.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() || listen.tokens.is_some());
        if !listen.address.ip().is_loopback() && !secured {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} can be reached from other machines, so it needs TLS and a credential", listen.address),
            )
            .hint(
                "give --tls-cert and --tls-key, with --token-file (see `vyr token add`) or --client-ca; or listen on \
                 127.0.0.1",
            ));
        }
        if listen.anonymous.is_some() && listen.tokens.is_none() {
            return Err(Error::new(ErrorKind::Usage, "without a token file nobody needs --anonymous-read")
                .hint("give --token-file (see `vyr token add`), or leave --anonymous-read out"));
        }
        let tokens = listen.tokens.as_deref().map(Tokens::open).transpose()?;
        let tls = listen.tls.as_ref().map(|files| Tls::open(files, tokens.is_some()).map(Arc::new)).transpose()?;
        let tcp = bind_address(listen.address).map_err(|e| {
            let another = "choose another with --listen, as in --listen 127.0.0.1:0 for any that is free";
            let error = |kind, why: &dyn std::fmt::Display| {
                Error::new(kind, format!("{} can't be listened on: {why}", listen.address))
            };
            match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    error(ErrorKind::Conflict, &"another program listens there, perhaps a node of another data folder")
                        .hint(another)
                }
                std::io::ErrorKind::PermissionDenied => {
                    error(ErrorKind::Usage, &e).hint("ports below 1024 are root's: choose another with --listen")
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    error(ErrorKind::Usage, &"no interface of this machine has that address").hint(another)
                }
                _ => error(ErrorKind::Usage, &e).hint(another),
            }
        })?;
        let unix = match &listen.socket {
            Some(path) => Some((bind_socket(path)?, path.clone())),
            None => None,
        };
        let certificates = listen.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let access = Access::new(tokens, certificates, listen.anonymous.clone(), &listen.secret);
        let names = Names::new(&listen.host_names);
        Ok(Self { tcp, unix, tls, access: Arc::new(access), names, max_connections: listen.max_connections })
    }

    /// Why clients won't take the node's certificate, where this machine's clock is outside of its time.
    #[must_use]
    pub fn out_of_time(&self) -> Option<String> {
        self.tls.as_ref().and_then(|tls| tls.out_of_time())
    }

    /// The address in use.
    ///
    /// # Errors
    /// The system doesn't say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.tcp.local_addr().map_err(|e| Error::new(ErrorKind::Internal, e))
    }

    /// Serves `node` until `stop` resolves; then the node ends as [`Node::stop`] says. Returns how many tasks were cancelled.
    ///
    /// # Errors
    /// A service can't be set up.
    pub async fn run(self, node: Node, metrics: prometheus::Registry, stop: impl Future<Output = ()>) -> Result<usize> {
        let Self { tcp, unix, tls, access, names, max_connections } = self;
        let failed = |e: std::io::Error| Error::new(ErrorKind::Internal, format!("nothing can be accepted: {e}"));
        let tcp = TcpListener::from_std(tcp).map_err(failed)?;
        let unix = match unix {
            Some((listener, path)) => Some((UnixListener::from_std(listener).map_err(failed)?, path)),
            None => None,
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(control::SERVICE, tonic_health::ServingStatus::Serving).await;
        let registry = distribution::Distribution::open(&node, Arc::clone(&access)).await?;
        let router = answer::router(node.clone(), health_service, metrics, registry, names.clone())?;
        let graceful = Arc::new(GracefulShutdown::new());
        let (numbers, held) = (AtomicU64::new(1), Arc::clone(&graceful));
        let connections = Connections { router, access, names, graceful: held, numbers };
        let connections = Arc::new(connections);
        // Each by itself: whoever fills the port keeps nobody from the socket.
        let (port, local) = (Places::new(max_connections), Places::new(max_connections));
        {
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    () = &mut stop => break,
                    accepted = tcp.accept() => match accepted {
                        Ok((stream, _)) => if let Some(place) = port.take() {
                            tend(&stream);
                            Arc::clone(&connections).tcp(stream, tls.clone(), place);
                        },
                        Err(e) => not_accepted(&e).await,
                    },
                    accepted = accept(unix.as_ref().map(|(listener, _)| listener)) => match accepted {
                        Ok(stream) => if let Some(place) = local.take() {
                            Arc::clone(&connections).unix(stream, place);
                        },
                        Err(e) => not_accepted(&e).await,
                    },
                }
            }
        }
        for service in ["", control::SERVICE] {
            health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        drop(tcp);
        if let Some((listener, path)) = unix {
            drop(listener);
            let _ = std::fs::remove_file(path);
        }
        let cancelled = node.stop().await;
        drop(connections);
        if let Some(graceful) = Arc::into_inner(graceful) {
            drop(tokio::time::timeout(GOODBYE, graceful.shutdown()).await);
        }
        Ok(cancelled)
    }
}

/// The connections that one listener may have open. Those beyond are closed at once: left waiting, each would look like a
/// node that hangs.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    most: usize,
    said: Mutex<Option<Instant>>,
}

impl Places {
    fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(most)), most, said: Mutex::default() }
    }

    /// One, where one is free.
    fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(place);
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
            *said = Some(Instant::now());
            tracing::warn!(open = self.most, "connections are closed: as many as may be are open");
        }
        None
    }
}

/// The next connection of the socket, if there is one to listen on.
async fn accept(listener: Option<&UnixListener>) -> std::io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// What every connection is set to. Where the system can't, it stays longer than it should.
fn tend(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let (after, every, gone) = PROBES;
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, after);
    let _ = sockopt::set_tcp_keepintvl(stream, every);
    let _ = sockopt::set_tcp_user_timeout(stream, u32::try_from(gone.as_millis()).unwrap_or(u32::MAX));
}

/// Out of descriptors, as a rule: others have to end first.
async fn not_accepted(e: &std::io::Error) {
    tracing::warn!(error = %e, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// As Tokio does it, which needs a runtime for that.
fn bind_address(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn bind_socket(path: &Path) -> Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Usage, format!("the socket {} can't be made: {e}", path.display()))
            .hint("give a shorter or another path with --socket, or --no-socket")
    };
    match std::fs::symlink_metadata(path) {
        // Left behind, if nobody listens on it.
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Error::new(ErrorKind::Conflict, format!("somebody listens on {} already", path.display()))
                    .hint("end that one first, or give another path with --socket"));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(std::io::ErrorKind::AlreadyExists.into())),
        Err(_) => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    private_socket(path).map_err(failed)
}

/// A socket that is this user's alone from its first moment: Linux gives the file the mode that the descriptor has when it is
/// bound, whatever the umask leaves of the rest. A mode that is set afterwards comes too late for who was quick.
fn private_socket(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[derive(Debug)]
struct Connections {
    router: axum::Router,
    access: Arc<Access>,
    names: Names,
    graceful: Arc<GracefulShutdown>,
    numbers: AtomicU64,
}

impl Connections {
    fn tcp(self: Arc<Self>, stream: tokio::net::TcpStream, tls: Option<Arc<Tls>>, place: OwnedSemaphorePermit) {
        let Some(tls) = tls else {
            let peer = Peer::plain(self.number());
            return self.serve(stream, peer, place);
        };
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let peer = Peer::tls(self.number(), certificate.map(AsRef::as_ref));
                    self.serve(stream, peer, place);
                }
                Ok(Err(e)) => tls.failed(&e),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }

    fn unix(self: Arc<Self>, stream: tokio::net::UnixStream, place: OwnedSemaphorePermit) {
        // Not rustix's `socket_peercred`: its process number can't be 0, which is what a caller outside of this node's container has.
        match stream.peer_cred() {
            Ok(who) => {
                let peer = Peer::unix(who.uid());
                self.serve(stream, peer, place);
            }
            Err(e) => tracing::warn!(error = %e, "the other side of the socket can't be told"),
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn serve(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        place: OwnedSemaphorePermit,
    ) {
        let (router, access, names) = (self.router.clone(), Arc::clone(&self.access), self.names.clone());
        let service = hyper::service::service_fn(move |request| {
            answer::answer(router.clone(), Arc::clone(&access), names.clone(), peer.clone(), request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection(TokioIo::new(Opening::new(stream, HEAD)), service).into_owned();
        let connection = self.graceful.watch(connection);
        drop(self);
        tokio::spawn(async move {
            let _place = place;
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection ended");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_has_its_mode_from_its_first_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        // Nothing sets the mode here but the making of it.
        let listener = UnixListener::from_std(private_socket(&path).unwrap()).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (called, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(called.is_ok() && accepted.is_ok());
        drop(listener);
        // One that was left behind is replaced.
        drop(bind_socket(&path).unwrap());
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
