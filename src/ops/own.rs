//! Owns which references name the registry of this very data folder: those of the node that serves it, by its address,
//! and those under the name that no address changes.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Home;
use crate::error::{Error, Result};
use crate::oci::{OWN_HOST, Reference};

/// While it lives, references with the node's address are the data folder's own.
#[derive(Debug)]
#[must_use]
pub struct Announced(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Announced {
    /// Writes the address where every process of this data folder finds it.
    ///
    /// # Errors
    /// [`Storage`](crate::ErrorKind::Storage) when the file can't be written.
    pub fn new(home: &Home, address: SocketAddr) -> Result<Self> {
        let path = home.node_address();
        let failed = |e: std::io::Error| Error::unwritable(&path, &e);
        // A file of its own each time, locked before it can be seen: who reads it finds it locked or dead.
        let mut file = tempfile::NamedTempFile::new_in(home.root()).map_err(failed)?;
        file.as_file().lock().map_err(failed)?;
        file.write_all(address.to_string().as_bytes()).map_err(failed)?;
        Ok(Self(file.persist(&path).map_err(|e| failed(e.error))?))
    }
}

/// Whether the reference names the data folder's own registry, and a node serves it, or the name is its own anyway.
#[must_use]
pub fn is_own(home: &Home, reference: &Reference) -> bool {
    reference.registry() == OWN_HOST || announced(home, reference.registry()) == Some(true)
}

/// Whether the reference's address was the node's when one last served the data folder.
#[must_use]
pub fn was_own(home: &Home, reference: &Reference) -> bool {
    announced(home, reference.registry()).is_some()
}

/// Whether the node that has the address `host` is still there; `None` when it isn't the node's.
fn announced(home: &Home, host: &str) -> Option<bool> {
    // Only these can be, and the others are most.
    let (name, port) = host.rsplit_once(':')?;
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return None;
    }
    let mut file = File::open(home.node_address()).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let address: SocketAddr = text.trim().parse().ok()?;
    // Whoever listens on another address of this machine leaves these to others.
    let (ip, all) = (address.ip(), address.ip().is_unspecified());
    let reaches = match name {
        "127.0.0.1" => all || ip == Ipv4Addr::LOCALHOST,
        "[::1]" => (all && ip.is_ipv6()) || ip == Ipv6Addr::LOCALHOST,
        _ => all || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST,
    };
    if port.parse() != Ok(address.port()) || !reaches {
        return None;
    }
    Some(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::parse_reference;

    #[test]
    fn an_address_is_own_while_its_node_lives() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_owned());
        let parsed = |text: &str| parse_reference(text).unwrap();
        let reference = parsed("localhost:7070/app:v1");
        assert!(!is_own(&home, &reference) && !was_own(&home, &reference));
        let node = Announced::new(&home, "127.0.0.1:7070".parse().unwrap()).unwrap();
        assert!(is_own(&home, &reference) && is_own(&home, &parsed("127.0.0.1:7070/a/b:v1")));
        assert!(is_own(&home, &parsed("vyr.localhost/app:v1")));
        for other in ["localhost:7071/app:v1", "example.com:7070/app:v1", "localhost/app:v1", "[::1]:7070/app:v1"] {
            assert!(!parse_reference(other).is_ok_and(|r| is_own(&home, &r)), "{other}");
        }
        drop(node);
        assert!(!is_own(&home, &reference) && was_own(&home, &reference));
    }

    #[test]
    fn what_listens_on_loopback_beside_a_node_on_another_address_is_not_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_owned());
        for (listens, own) in [
            ("192.168.1.2:7070", [false, false, false]),
            ("127.0.0.2:7070", [false, false, false]),
            ("127.0.0.1:7070", [true, true, false]),
            ("0.0.0.0:7070", [true, true, false]),
            ("[::1]:7070", [true, false, true]),
            ("[::]:7070", [true, true, true]),
        ] {
            let _node = Announced::new(&home, listens.parse().unwrap()).unwrap();
            let names = ["localhost:7070", "127.0.0.1:7070", "[::1]:7070"];
            assert_eq!(names.map(|host| announced(&home, host) == Some(true)), own, "{listens}");
        }
    }
}
