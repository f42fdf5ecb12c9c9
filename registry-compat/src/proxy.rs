//! Owns the way between a client and a registry: a TCP proxy that counts bytes, and cuts one connection when told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// The connection that is the first to carry `after` bytes this way is cut then; no other one is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) way: Way,
    pub(crate) after: u64,
}

/// What went through.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    cuts: AtomicU64,
}

/// A proxy; its thread ends with the program.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    counts: Arc<Counts>,
}

impl Proxy {
    pub(crate) fn start(to: u16, cut: Option<Cut>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                for way in [Way::Up, Way::Down] {
                    let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) else { continue };
                    let (from, to) = if way == Way::Up { (client, server) } else { (server, client) };
                    let counts = Arc::clone(&shared);
                    let cut = cut.filter(|cut| cut.way == way);
                    thread::spawn(move || carry(from, to, way, cut, &counts));
                }
            }
        });
        Ok(Self { port, counts })
    }

    /// The registry's name by this way.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub(crate) fn carried(&self, way: Way) -> u64 {
        let count = if way == Way::Up { &self.counts.up } else { &self.counts.down };
        count.load(Ordering::Relaxed)
    }

    pub(crate) fn has_cut(&self) -> bool {
        self.counts.cuts.load(Ordering::Relaxed) > 0
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, way: Way, cut: Option<Cut>, counts: &Counts) {
    let total = if way == Way::Up { &counts.up } else { &counts.down };
    let mut piece = vec![0; 64 << 10];
    let mut here = 0_u64;
    while let Ok(length) = from.read(&mut piece) {
        if length == 0 || to.write_all(&piece[..length]).is_err() {
            break;
        }
        here += length as u64;
        total.fetch_add(length as u64, Ordering::Relaxed);
        let due = cut.is_some_and(|cut| here >= cut.after);
        if due && counts.cuts.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            drop(from.shutdown(Shutdown::Both));
            drop(to.shutdown(Shutdown::Both));
            return;
        }
    }
    // The other direction may still have something to say.
    drop(to.shutdown(Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends 1 MiB to each who connects.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                // Who has been cut off is gone.
                let _ = client.write_all(&vec![7; 1 << 20]);
            }
        });
        port
    }

    fn received(port: u16) -> usize {
        let mut bytes = Vec::new();
        // A cut may come as a reset.
        let _ = TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_end(&mut bytes);
        bytes.len()
    }

    #[test]
    fn one_connection_is_cut_and_what_went_through_is_counted() {
        let proxy = Proxy::start(server(), Some(Cut { way: Way::Down, after: 400_000 })).unwrap();
        let first = received(proxy.port);
        assert!(first < 1 << 20 && proxy.has_cut(), "{first} bytes came");
        assert_eq!(received(proxy.port), 1 << 20);
        assert!(proxy.carried(Way::Down) >= (1 << 20) + 400_000);
        assert_eq!(proxy.carried(Way::Up), 0);
    }
}
