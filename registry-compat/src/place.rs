//! Owns the registries: starts each one on a loopback port with an empty folder, and ends it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::kit::Kit;

/// The user of a registry that wants one.
pub(crate) const USER: &str = "vyr";
const PASSWORD: &str = "secret";
/// `PASSWORD` by bcrypt at the lowest cost: `htpasswd` isn't on every machine, and this protects nothing.
const HTPASSWD: &str = "vyr:$2b$04$SDXJflozi1swvu2xZl7qQ.7ECBytFp8bTT/NfjH6gjY1KrffE6H0O\n";

/// What can be pushed to and pulled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Vyr,
    DockerRegistry,
    Distribution,
    Ferro,
    Crane,
    Layout,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Vyr, Self::DockerRegistry, Self::Distribution, Self::Ferro, Self::Crane, Self::Layout];

    /// As in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vyr => "vyr serve",
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "distribution",
            Self::Ferro => "ferro-oci-server",
            Self::Crane => "crane registry serve",
            Self::Layout => "OCI layout folder",
        }
    }

    /// The tool that it is, in `envs/tools`.
    pub(crate) fn tool(self) -> Option<&'static str> {
        match self {
            Self::Vyr => Some("vyr"),
            Self::DockerRegistry => Some("docker-registry"),
            Self::Distribution => Some("distribution"),
            Self::Ferro => Some("ferro"),
            Self::Crane => Some("crane"),
            Self::Layout => None,
        }
    }

    /// Why it can't be asked for a password, if it can't.
    pub(crate) fn without_passwords(self) -> Option<&'static str> {
        match self {
            Self::Vyr | Self::DockerRegistry | Self::Distribution => None,
            Self::Ferro | Self::Crane => Some("the registry knows no credentials"),
            Self::Layout => Some("a folder has no login"),
        }
    }
}

/// A registry that runs, or the folder of layouts; ended when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// `localhost:PORT`, the one name for which oras speaks plain HTTP without being told; the folder for layouts.
    pub(crate) host: String,
    pub(crate) password: Option<String>,
    process: Option<Child>,
    #[expect(dead_code, reason = "its drop removes the folder")]
    folder: TempDir,
}

impl Place {
    pub(crate) fn start(kit: &Kit, kind: Kind, with_password: bool) -> Result<Self> {
        let mut last = String::new();
        // Between finding a free port and the registry's taking it, somebody else may: try again.
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("place").tempdir_in(kit.root.path())?;
            if kind == Kind::Layout {
                let host = folder.path().display().to_string();
                return Ok(Self { kind, host, password: None, process: None, folder });
            }
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let log = folder.path().join("log");
            let output = File::create(&log)?;
            let (mut command, password) = command(kit, kind, folder.path(), port, with_password)?;
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
            let process = Some(command.spawn().with_context(|| format!("{command:?}"))?);
            let mut place = Self { kind, host: format!("localhost:{port}"), password, process, folder };
            if place.answers(port) {
                return Ok(place);
            }
            last = std::fs::read_to_string(log).unwrap_or_default();
        }
        bail!("{} didn't start:\n{last}", kind.name())
    }

    fn answers(&mut self, port: u16) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if self.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None))) {
                return false;
            }
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
                drop(stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
                let mut answer = [0; 12];
                if stream.read_exact(&mut answer).is_ok() && matches!(&answer[9..], b"200" | b"401") {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub(crate) fn is_layout(&self) -> bool {
        self.kind == Kind::Layout
    }

    /// The port behind the host.
    pub(crate) fn port(&self) -> Result<u16> {
        Ok(self.host.rsplit_once(':').context("a layout has no port")?.1.parse()?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn command(kit: &Kit, kind: Kind, folder: &Path, port: u16, with_password: bool) -> Result<(Command, Option<String>)> {
    let address = format!("127.0.0.1:{port}");
    let data = folder.join("data");
    let mut command = Command::new(kit.path(kind.tool().context("a layout is no program")?)?);
    command.current_dir(folder).env_clear().env("HOME", folder);
    let mut password = with_password.then(|| PASSWORD.to_owned());
    match kind {
        Kind::Vyr => {
            command.env("VYR_HOME", &data).args(["serve", "--no-socket", "--listen", &address]);
            if with_password {
                let tokens = folder.join("tokens");
                password = Some(token(kit, &data, &tokens)?);
                command.arg("--token-file").arg(tokens);
            }
        }
        Kind::DockerRegistry | Kind::Distribution => {
            std::fs::write(folder.join("htpasswd"), HTPASSWD)?;
            let auth = if with_password { "auth: { htpasswd: { realm: test, path: ./htpasswd } }\n" } else { "" };
            let storage =
                format!("{{ filesystem: {{ rootdirectory: {} }}, delete: {{ enabled: true }} }}", data.display());
            let text = format!(
                "version: 0.1\nlog: {{ level: error }}\nstorage: {storage}\nhttp: {{ addr: \"{address}\" }}\n{auth}"
            );
            std::fs::write(folder.join("config.yml"), text)?;
            command.args(["serve", "config.yml"]);
            // Its traces would go to a collector that isn't there.
            command.env("OTEL_TRACES_EXPORTER", "none");
        }
        Kind::Ferro => {
            command.env("FERRO_OCI_LISTEN", address).env("FERRO_OCI_STORAGE_DIR", data).env("RUST_LOG", "warn");
        }
        Kind::Crane => {
            std::fs::create_dir(&data)?;
            command.args(["registry", "serve", "--address", &address, "--disk"]).arg(data);
        }
        Kind::Layout => {}
    }
    Ok((command, password))
}

fn token(kit: &Kit, folder: &Path, file: &Path) -> Result<String> {
    let mut command = Command::new(kit.path("vyr")?);
    command.args(["token", "add", USER, "--file"]).arg(file).env("VYR_HOME", folder);
    let output = command.output()?;
    let said = String::from_utf8(output.stdout)?;
    let last = said.split_whitespace().last().map(str::to_owned);
    last.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
