//! Owns what a guest asked for and isn't given, so that it can be said when it has failed: all that the guest itself sees is
//! an error code.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, HostResolveAddressStream, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{DynPollable, SocketError, SocketResult, TcpSocket, UdpSocket};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView as _};

use super::descriptors;
use super::error::amount;
use super::limiter::Limiter;
use super::run::State;

/// How many different ones are remembered.
const AT_MOST: usize = 3;
/// The longest name that is remembered whole, in bytes: no host's is longer.
const NAME_BYTES: usize = 253;

/// What one guest was denied.
#[derive(Debug, Default)]
pub(super) struct Denied {
    /// A socket.
    socket: bool,
    /// Names that it wanted to look up.
    names: Vec<String>,
    /// Addresses that no rule lets it reach.
    addresses: Option<Arc<Addresses>>,
    /// Whether any rule is there.
    pub(super) has_rules: bool,
    /// Whether names may be looked up.
    pub(super) may_look_up: bool,
}

/// Those that were tried; the check of addresses outlives no guest, but is apart from its state.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<Vec<SocketAddr>>);

impl Addresses {
    pub(super) fn add(&self, address: SocketAddr) {
        remember(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), address);
    }

    fn all(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if all.len() < AT_MOST && !all.contains(&one) {
        all.push(one);
    }
}

impl Denied {
    pub(super) fn new(has_rules: bool, may_look_up: bool, addresses: Arc<Addresses>) -> Self {
        Self { has_rules, may_look_up, addresses: Some(addresses), ..Self::default() }
    }

    /// A sentence for each thing that it was denied; `full` are the states that had no room for what it wrote.
    pub(super) fn remarks(&self, limiter: &Limiter, full: Vec<(String, u64)>) -> Vec<String> {
        let mut remarks = Vec::new();
        for name in &self.names {
            remarks.push(if self.has_rules {
                format!(
                    "the guest looked up {name}, and its network rules name no host: --allow-net {name}:PORT lets it"
                )
            } else {
                format!(
                    "the guest looked up {name}, and it has no network: --allow-net {name}:PORT lets it connect there"
                )
            });
        }
        for address in self.addresses.iter().flat_map(|addresses| addresses.all()) {
            remarks.push(format!(
                "the guest tried to reach {address}, which none of its network rules names: --allow-net {address} lets it"
            ));
        }
        if self.socket && self.names.is_empty() {
            remarks.push(
                "the guest asked for a socket, and it has no network: --allow-net HOST:PORT lets it connect there"
                    .into(),
            );
        }
        if let Some(limit) = limiter.denied_growth() {
            let limit = amount(limit, super::error::MEMORY);
            remarks.push(format!("the guest asked for more than its limit of {limit} of memory: --memory raises it"));
        }
        for (state, quota) in full {
            let quota = amount(quota, super::error::MEMORY);
            remarks.push(format!(
                "the state `{state}` had no room for what the guest wrote: it may hold {quota}, and `vyr state create --quota` says \
                 how much a new one may"
            ));
        }
        remarks
    }
}

/// WASI's own sockets, and what is remembered of what they deny.
struct View<'a> {
    wasi: WasiSocketsCtxView<'a>,
    denied: &'a mut Denied,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

fn view(state: &mut State) -> View<'_> {
    state.called = true;
    View { wasi: state.wasi.sockets(), denied: &mut state.denied }
}

/// Puts itself before the calls in `linker`, which has them already and allows shadowing.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    tcp_create_socket::add_to_linker::<State, HasView>(linker, view)?;
    udp_create_socket::add_to_linker::<State, HasView>(linker, view)?;
    ip_name_lookup::add_to_linker::<State, HasView>(linker, view)
}

impl View<'_> {
    fn seen<T>(&mut self, made: SocketResult<T>) -> SocketResult<T> {
        if let Err(e) = &made {
            self.denied.socket |= matches!(e.downcast_ref(), Some(ErrorCode::AccessDenied));
        }
        made
    }
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.wasi, error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.wasi, error)
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.wasi, network)
    }
}

impl tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        if !descriptors::are_left() {
            return Err(ErrorCode::NewSocketLimit.into());
        }
        let made = self.wasi.create_tcp_socket(family);
        self.seen(made)
    }
}

impl udp_create_socket::Host for View<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        if !descriptors::are_left() {
            return Err(ErrorCode::NewSocketLimit.into());
        }
        let made = self.wasi.create_udp_socket(family).await;
        self.seen(made)
    }
}

impl ip_name_lookup::Host for View<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        if !self.denied.may_look_up {
            // It goes to a terminal.
            let shown: String = name.escape_default().take(NAME_BYTES).collect();
            remember(&mut self.denied.names, shown);
        }
        self.wasi.resolve_addresses(network, name)
    }
}

impl HostResolveAddressStream for View<'_> {
    fn resolve_next_address(&mut self, stream: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        self.wasi.resolve_next_address(stream)
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostResolveAddressStream::subscribe(&mut self.wasi, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        HostResolveAddressStream::drop(&mut self.wasi, stream)
    }
}
