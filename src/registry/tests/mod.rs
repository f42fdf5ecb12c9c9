//! Owns the two other sides of the registry tests: a scripted HTTP/1.1 server that misbehaves, and the real `docker-registry`.

mod auth;
mod faults;
mod real;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, ClientOptions, DockerConfig};
use crate::oci::{self, Reference};

/// What a fake server was asked.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What a fake server does: it sends the bytes, and then …
#[derive(Debug, Clone)]
enum Act {
    /// … ends the connection in order.
    Send(Vec<u8>),
    /// … resets the connection.
    Reset(Vec<u8>),
    /// … is silent.
    Hang(Vec<u8>),
}

/// An answer with `headers` (each line ending in CRLF) and a body whose length is said truly.
fn answer(status: &str, headers: &str, body: &[u8]) -> Act {
    Act::Send(bytes_of(status, &format!("{headers}Content-Length: {}\r\n", body.len()), body))
}

/// An answer with exactly `headers`.
fn bytes_of(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// A server on a free loopback port; `script` gets the number of the request, from 0, and the request.
    async fn start(script: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, script) = (Arc::clone(&seen), Arc::new(script));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                tokio::spawn(async move {
                    let _ = serve(stream, |request| {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        script(log.len() - 1, request)
                    })
                    .await;
                });
            }
        });
        Self { address, seen, task }
    }

    fn reference(&self, rest: &str) -> Reference {
        oci::parse_reference(&format!("{}/{rest}", self.address)).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, respond: impl FnOnce(&Seen) -> Act) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        // A TLS handshake: this server only speaks plain HTTP, and says so as Go's does.
        if bytes.first() == Some(&0x16) {
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await?;
            return stream.shutdown().await;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut request = Seen {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        headers: lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect(),
        body: bytes.split_off(end + 4),
    };
    let length: usize = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    while request.body.len() < length && stream.read_buf(&mut request.body).await? > 0 {}
    match respond(&request) {
        Act::Send(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        Act::Reset(bytes) => {
            stream.write_all(&bytes).await?;
            // Time for the other side to read what came before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger()
        }
        Act::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
    }
}

/// Options whose waits are short.
fn quick() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_millis(400),
        retries: 2,
        retry_delay: Duration::from_millis(1),
        retry_delay_max: Duration::from_secs(1),
        ..ClientOptions::default()
    }
}

fn quick_client() -> Client {
    Client::new(quick()).unwrap()
}

/// A folder with this `config.json`.
fn docker_config(text: &str) -> (tempfile::TempDir, DockerConfig) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let config = DockerConfig::Folder(folder.path().to_owned());
    (folder, config)
}

/// Bytes that differ everywhere, so that a piece in the wrong place is noticed.
fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The real registry of Debian, on a free loopback port, with a folder of its own.
struct DockerRegistry {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DockerRegistry {
    /// Starts it; `more` makes further configuration (YAML, top level) and lines below `http:`, given its folder.
    fn start(more: impl Fn(&Path) -> (String, String)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (top, http) = more(folder.path());
        let data = folder.path().join("data");
        let mut config = String::from("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n");
        writeln!(config, "storage:\n  filesystem:\n    rootdirectory: {}", data.display()).unwrap();
        writeln!(config, "http:\n  addr: 127.0.0.1:{port}\n{http}{top}").unwrap();
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(crate::testing::tool("docker-registry"))
            .args(["serve".as_ref(), path.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let mut registry = Self { process, port, folder };
        registry.wait();
        registry
    }

    fn plain() -> Self {
        Self::start(|_| (String::new(), String::new()))
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.try_wait().unwrap();
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "docker-registry did not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reference(&self, rest: &str) -> Reference {
        oci::parse_reference(&format!("127.0.0.1:{}/{rest}", self.port)).unwrap()
    }
}

/// A CA and a server certificate for 127.0.0.1, made by the `openssl` program: `ca.pem`, `server.pem`, `server.key`.
fn make_certificates(folder: &Path) -> PathBuf {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output();
        let output = output.expect("openssl can't be started: install it with `apt-get install openssl`");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(
        folder.join("server.ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        &[&["req", "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem"][..], &key]
            .concat(),
    );
    openssl(
        &[&["req", "-new", "-subj", "/CN=test server", "-keyout", "server.key", "-out", "server.csr"][..], &key]
            .concat(),
    );
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "server.ext",
        "-out",
        "server.pem",
    ]);
    folder.join("ca.pem")
}
