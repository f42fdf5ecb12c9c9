//! A real docker-registry on a free loopback port, with a folder of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tool;

/// The user of a registry that wants one.
pub(crate) const USER: &str = "vyr";
/// Its password.
pub(crate) const PASSWORD: &str = "secret";
/// `PASSWORD` by bcrypt at the lowest cost: `htpasswd` isn't on every machine, and this protects nothing.
const HTPASSWD: &str = "vyr:$2b$04$SDXJflozi1swvu2xZl7qQ.7ECBytFp8bTT/NfjH6gjY1KrffE6H0O\n";

/// A running registry; gone when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Registry {
    /// A registry that lets everybody in.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// A registry that wants `USER` and `PASSWORD` by basic authentication.
    pub(crate) fn with_password() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: vyr\n    path: ./htpasswd\n")
    }

    fn with(auth: &str) -> Self {
        let program = tool("docker-registry");
        // Between finding a free port and the registry's taking it, somebody else may: try again.
        for _ in 0..5 {
            let folder = TempDir::new().expect("a temporary folder");
            let write = |name: &str, text: &str| {
                fs::write(folder.path().join(name), text).expect("the temporary folder can be written");
            };
            let port = free_port();
            let root = folder.path().join("data");
            write("htpasswd", HTPASSWD);
            write(
                "config.yml",
                &format!(
                    "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
                     enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
                    root.display()
                ),
            );
            let log = File::create(folder.path().join("log")).expect("the temporary folder can be written");
            let child = Command::new(&program)
                .args(["serve", "config.yml"])
                .current_dir(folder.path())
                .env_clear()
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a file handle"))
                .stderr(log)
                .spawn()
                .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
            let mut registry = Self { child, folder, port };
            if registry.answers() {
                return registry;
            }
            let log = registry.log();
            assert!(log.contains("address already in use"), "docker-registry did not start:\n{log}");
        }
        panic!("docker-registry found no free port in 5 tries")
    }

    fn answers(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if self.child.try_wait().ok().flatten().is_some() {
                return false;
            }
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                let _ = stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n");
                let mut answer = [0; 12];
                if stream.read_exact(&mut answer).is_ok() && matches!(&answer[9..], b"200" | b"401") {
                    return true;
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// `localhost:PORT`: the one name for which oras speaks plain HTTP without being told.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// `localhost:PORT/REPOSITORY:TAG`.
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// `localhost:PORT/REPOSITORY@DIGEST`.
    pub(crate) fn by_digest(&self, repository: &str, digest: &str) -> String {
        format!("{}/{repository}@{digest}", self.host())
    }

    /// The file in which the registry keeps a blob or a manifest.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap_or_else(|| panic!("{digest} is not by sha256"));
        self.folder.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// The registry's own folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Ends it, as a lost network does: its address refuses from now on.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback port on which nothing listens right now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("a bound socket has an address").port()
}
