//! Owns the registry that makers push to: crane's own, on a free port of this machine, ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::kit::Kit;

#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    port: u16,
    _folder: TempDir,
}

/// A port that nobody listens on; whoever gets it shall be quick.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens there, or `process` has ended.
pub(crate) fn wait_for(port: u16, process: &mut Child, seconds: u64) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        if let Some(status) = process.try_wait()? {
            bail!("it ended: {status}");
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("nobody listens on port {port} after {seconds} s")
}

impl Registry {
    pub(crate) fn start(kit: &Kit, cache: &Cache) -> Result<Self> {
        let folder = cache.scratch()?;
        let port = free_port()?;
        let mut command = Command::new(kit.path("crane")?);
        command.args(["registry", "serve", "--address", &format!("127.0.0.1:{port}"), "--disk"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().context("crane registry serve")?;
        wait_for(port, &mut process, 10).context("crane registry serve")?;
        Ok(Self { process, port, _folder: folder })
    }

    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
