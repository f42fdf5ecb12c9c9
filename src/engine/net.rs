//! Owns the network rules of a guest: whom it may reach, and nobody else.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::denied::{Addresses, Denied};
use super::error::StartError;
use crate::error::{Error, ErrorKind};

/// One `HOST:PORT` that a guest may connect to, by TCP and UDP. `PORT` may be `*`; an IPv6 address stands in
/// brackets; `*:*` is anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetRule {
    host: Host,
    /// `None` for any port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// With any port alone.
    Any,
    Address(IpAddr),
    Name(String),
}

impl fmt::Display for NetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*:")?,
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Host::Address(address) => write!(f, "{address}:")?,
            Host::Name(name) => write!(f, "{name}:")?,
        }
        match self.port {
            Some(port) => write!(f, "{port}"),
            None => f.write_str("*"),
        }
    }
}

impl FromStr for NetRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::new(ErrorKind::Usage, format!("`{text}` is not a network rule: {why}"))
                .hint("write HOST:PORT, [IPv6]:PORT, or * for any port")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = match port {
            "*" => None,
            _ => match port.parse::<u16>() {
                Ok(0) | Err(_) => return Err(bad("the port is not a number from 1 to 65535")),
                Ok(port) => Some(port),
            },
        };
        let host = if host == "*" && port.is_none() {
            Host::Any
        } else if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Host::Address(IpAddr::V6(inner.parse().map_err(|_| bad("what is in brackets is not an IPv6 address"))?))
        } else if let Ok(address) = host.parse::<IpAddr>() {
            if address.is_ipv6() {
                return Err(bad("an IPv6 address stands in brackets"));
            }
            Host::Address(address)
        } else if host.is_empty()
            || host.len() > 253
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(bad("that is not a host name or an address"));
        } else {
            Host::Name(host.to_owned())
        };
        Ok(Self { host, port })
    }
}

impl NetRule {
    /// Whether it lets everybody be reached.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.host == Host::Any
    }

    /// Whether all that `other` allows is allowed by this one, going by what they say: nothing is looked up, so a name
    /// covers that name alone, and no address.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let host = match (&self.host, &other.host) {
            (Host::Any, _) => true,
            (Host::Address(own), Host::Address(other)) => own.to_canonical() == other.to_canonical(),
            (Host::Name(own), Host::Name(other)) => {
                own.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
            }
            _ => false,
        };
        host && (self.port.is_none() || self.port == other.port)
    }
}

/// The most that a node lets its tasks reach: rules, or `none` for nothing at all.
///
/// # Errors
/// [`ErrorKind::Usage`] for what is no rule, and for `none` beside one.
pub fn most_of_net(words: &[String]) -> Result<Vec<NetRule>, Error> {
    match words {
        [one] if one == "none" => Ok(Vec::new()),
        words => words.iter().map(|word| word.parse()).collect(),
    }
}

/// Resolved rules.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    any: bool,
    addresses: Vec<(IpAddr, Option<u16>)>,
    names: bool,
}

/// Resolves `rules` once: a guest reaches the addresses that the names have now, whatever they become later.
pub(super) async fn resolve(rules: &[NetRule]) -> Result<Allowed, StartError> {
    let mut allowed = Allowed::default();
    for rule in rules {
        match &rule.host {
            Host::Any => {
                allowed.any = true;
                allowed.names = true;
            }
            Host::Address(address) => allowed.addresses.push((address.to_canonical(), rule.port)),
            Host::Name(name) => {
                allowed.names = true;
                let found = tokio::net::lookup_host((name.as_str(), 0))
                    .await
                    .map_err(|source| StartError::NetUnavailable { rule: rule.to_string(), source })?;
                allowed.addresses.extend(found.map(|address| (address.ip().to_canonical(), rule.port)));
            }
        }
    }
    Ok(allowed)
}

impl Allowed {
    fn permits(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        match purpose {
            // A connection binds implicitly, to no address and no port in particular. Taking a port or an
            // address, listening and accepting stay denied.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => address.ip().is_unspecified() && address.port() == 0,
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                let ip = address.ip().to_canonical();
                self.any
                    || self.addresses.iter().any(|(a, port)| *a == ip && port.is_none_or(|port| port == address.port()))
            }
        }
    }

    /// Gives the guest what the rules allow, and what is remembered of the rest. Without any rule it gets nothing, which is the default of the
    /// builder. Where a rule names a host, the guest may look up names, and any name: that is how a guest
    /// finds the address, and the library can't restrict it further.
    pub(super) fn apply(self, builder: &mut WasiCtxBuilder) -> Denied {
        if self.addresses.is_empty() && !self.any {
            return Denied::default();
        }
        builder.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(self.names);
        let denied = Arc::new(Addresses::default());
        let remarks = Denied::new(true, self.names, Arc::clone(&denied));
        builder.socket_addr_check(move |address, purpose| {
            let permitted = self.permits(address, purpose);
            if !permitted && matches!(purpose, SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend) {
                denied.add(address);
            }
            Box::pin(std::future::ready(permitted))
        });
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_parse_and_print() {
        for text in ["127.0.0.1:80", "[::1]:443", "example.org:*", "[fe80::1]:*", "*:*"] {
            assert_eq!(text.parse::<NetRule>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":80",
            "::1:80",
            "[127.0.0.1]:80",
            "a b:80",
            "*:80",
            "[::1:80",
        ] {
            assert!(text.parse::<NetRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_covers_what_it_says_and_no_more() {
        let covers = |own: &str, other: &str| own.parse::<NetRule>().unwrap().covers(&other.parse().unwrap());
        for (own, other) in [
            ("*:*", "*:*"),
            ("*:*", "10.0.0.1:80"),
            ("10.0.0.1:*", "10.0.0.1:80"),
            ("10.0.0.1:*", "10.0.0.1:*"),
            ("10.0.0.1:80", "[::ffff:10.0.0.1]:80"),
            ("Example.org:443", "example.org.:443"),
        ] {
            assert!(covers(own, other), "{own} {other}");
        }
        for (own, other) in [
            ("10.0.0.1:*", "*:*"),
            ("10.0.0.1:80", "10.0.0.1:*"),
            ("10.0.0.1:80", "10.0.0.1:81"),
            ("10.0.0.1:80", "10.0.0.2:80"),
            ("example.org:443", "a.example.org:443"),
            ("example.org:443", "127.0.0.1:443"),
            ("127.0.0.1:80", "localhost:80"),
        ] {
            assert!(!covers(own, other), "{own} {other}");
        }
        assert!(most_of_net(&["none".to_owned()]).unwrap().is_empty());
        assert!(most_of_net(&["none".to_owned(), "10.0.0.1:80".to_owned()]).is_err());
    }

    #[tokio::test]
    async fn only_what_a_rule_says_is_permitted() {
        let rules = ["127.0.0.1:80".parse().unwrap(), "[::1]:*".parse().unwrap()];
        let allowed = resolve(&rules).await.unwrap();
        let permits = |address: &str, purpose| allowed.permits(address.parse().unwrap(), purpose);
        assert!(permits("127.0.0.1:80", SocketAddrUse::TcpConnect));
        assert!(permits("[::ffff:127.0.0.1]:80", SocketAddrUse::UdpSend));
        assert!(permits("[::1]:9", SocketAddrUse::TcpConnect));
        assert!(permits("0.0.0.0:0", SocketAddrUse::TcpBind));
        assert!(!permits("127.0.0.1:81", SocketAddrUse::TcpConnect));
        assert!(!permits("127.0.0.2:80", SocketAddrUse::TcpConnect));
        assert!(!permits("127.0.0.1:80", SocketAddrUse::TcpBind));
        assert!(!permits("0.0.0.0:80", SocketAddrUse::UdpBind));
        assert!(!permits("0.0.0.0:0", SocketAddrUse::TcpListen));
        assert!(!permits("127.0.0.1:80", SocketAddrUse::TcpAccept));
        assert!(!allowed.names);
        let all = resolve(&["*:*".parse().unwrap()]).await.unwrap();
        assert!(all.permits("127.0.0.2:81".parse().unwrap(), SocketAddrUse::TcpConnect) && all.names);
        assert!(!all.permits("0.0.0.0:80".parse().unwrap(), SocketAddrUse::TcpListen));
        assert!(resolve(&["localhost:80".parse().unwrap()]).await.unwrap().names);
    }
}
