//! A registry that does as it's told: a scripted HTTP/1.1 server that serves one artifact, and spoils what a test says.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::sha256;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Serve what is there.
    Honest,
    /// Answer with this status line and body.
    Answer(&'static str, Vec<u8>),
    /// Serve these bytes in place of the real ones.
    Swap(Vec<u8>),
    /// Announce this length, send the bytes and close.
    Lie(usize, Vec<u8>),
    /// Announce this length, send the bytes and reset the connection.
    Reset(usize, Vec<u8>),
    /// Say nothing until the server goes.
    Hang,
}

/// What the scripted registry serves.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// The manifest under every tag, and under its digest.
    pub(crate) manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    /// The digest of the one layer.
    pub(crate) layer: String,
}

impl Content {
    /// What a plain `oras push` of `wasm` makes.
    pub(crate) fn of(wasm: &[u8]) -> Self {
        let config = b"{}".to_vec();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(&config), "size": 2 },
            "layers": [{ "mediaType": "application/wasm", "digest": sha256(wasm), "size": wasm.len() }],
        });
        let blobs = [(sha256(&config), config), (sha256(wasm), wasm.to_vec())].into();
        Self { manifest: manifest.to_string().into_bytes(), blobs, layer: sha256(wasm) }
    }

    /// The manifest's digest.
    pub(crate) fn digest(&self) -> String {
        sha256(&self.manifest)
    }
}

/// A running one; gone when dropped.
#[derive(Debug)]
pub(crate) struct BadRegistry {
    port: u16,
    over: Arc<AtomicBool>,
}

impl BadRegistry {
    /// Serves `content`, asking `script` what to do with each path.
    pub(crate) fn start(content: Content, script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let over = Arc::new(AtomicBool::new(false));
        let (stop, shared) = (over.clone(), Arc::new((content, script)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), shared, stop) = (stream, shared.clone(), stop.clone()) else { continue };
                thread::spawn(move || {
                    let _ = serve(stream, &shared.0, &shared.1, &stop);
                });
            }
        });
        Self { port, over }
    }

    /// `localhost:PORT/REPOSITORY@DIGEST`.
    pub(crate) fn by_digest(&self, repository: &str, digest: &str) -> String {
        format!("localhost:{}/{repository}@{digest}", self.port)
    }

    /// `localhost:PORT/REPOSITORY:TAG`.
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> String {
        format!("localhost:{}/{repository}:{tag}", self.port)
    }
}

impl Drop for BadRegistry {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // The accept loop sees the flag at its next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(
    stream: TcpStream,
    content: &Content,
    script: &(impl Fn(&str) -> Act + Send + Sync),
    over: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        // A TLS handshake isn't text: the error closes the connection, as a plain server does.
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut offset = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                offset = range.split('-').next().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
            }
        }
        let head = method == "HEAD";
        match script(&path) {
            Act::Honest => match find(content, &path) {
                Some((media_type, bytes)) => send(&mut out, "200 OK", media_type, &bytes, offset, head)?,
                None => send(&mut out, "404 Not Found", "application/json", b"{}", 0, head)?,
            },
            Act::Swap(bytes) => {
                let media_type = if path.contains("/manifests/") { MANIFEST } else { "application/octet-stream" };
                send(&mut out, "200 OK", media_type, &bytes, offset, head)?;
            }
            Act::Answer(status, body) => send(&mut out, status, "application/json", &body, 0, head)?,
            Act::Lie(length, bytes) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
                out.write_all(&bytes)?;
                return Ok(());
            }
            Act::Reset(length, bytes) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
                out.write_all(&bytes)?;
                out.flush()?;
                thread::sleep(Duration::from_millis(20));
                // A close with a zero linger sends RST instead of FIN.
                rustix::net::sockopt::set_socket_linger(&out, Some(Duration::ZERO))?;
                return Ok(());
            }
            Act::Hang => {
                while !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
        }
    }
}

fn find(content: &Content, path: &str) -> Option<(&'static str, Vec<u8>)> {
    if path == "/v2/" {
        return Some(("application/json", b"{}".to_vec()));
    }
    let last = path.rsplit('/').next()?;
    if path.contains("/blobs/") {
        return content.blobs.get(last).map(|bytes| ("application/octet-stream", bytes.clone()));
    }
    let known = last == content.digest() || last == "v1";
    (path.contains("/manifests/") && known).then(|| (MANIFEST, content.manifest.clone()))
}

fn send(
    out: &mut TcpStream,
    status: &str,
    media_type: &str,
    bytes: &[u8],
    offset: usize,
    head: bool,
) -> std::io::Result<()> {
    let body = bytes.get(offset..).unwrap_or_default();
    let status = if offset > 0 && status.starts_with("200") { "206 Partial Content" } else { status };
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n", body.len())?;
    if offset > 0 {
        write!(out, "Content-Range: bytes {offset}-{}/{}\r\n", bytes.len() - 1, bytes.len())?;
    }
    out.write_all(b"\r\n")?;
    if !head {
        out.write_all(body)?;
    }
    out.flush()
}
