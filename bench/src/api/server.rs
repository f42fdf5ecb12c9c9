//! Owns a server that is a child process: started, found by the address that it writes, ended.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::Stage;

/// How long a start may take.
const START: Duration = Duration::from_secs(60);
/// How long an end may take: a node lets running guests go on for a while.
const STOP: Duration = Duration::from_secs(60);

/// A running server; killed with this value.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// `vyr serve` of the data folder `home`.
    pub(crate) fn node(stage: &Stage, home: &str, arguments: &[&str]) -> Result<Self> {
        Self::node_with(stage, home, arguments, None)
    }

    /// The same, with a variable.
    pub(crate) fn node_with(
        stage: &Stage,
        home: &str,
        arguments: &[&str],
        variable: Option<(&str, &str)>,
    ) -> Result<Self> {
        let mut command = stage.vyr(home);
        command.envs(variable);
        command.args(["serve", "--listen", "127.0.0.1:0", "--home"]).arg(stage.folder.path().join(home));
        command.args(arguments);
        Self::start(command, stage.folder.path(), home)
    }

    /// The echo of this program.
    pub(crate) fn echo(stage: &Stage) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo-server");
        Self::start(command, stage.folder.path(), "echo")
    }

    fn start(mut command: Command, folder: &Path, name: &str) -> Result<Self> {
        let (file, log) = (folder.join(format!("{name}.address")), folder.join(format!("{name}.log")));
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        command.arg("--address-file").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = command.spawn().with_context(|| format!("{command:?}"))?;
        let began = Instant::now();
        let mut before = None;
        loop {
            let said = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            // Read alike twice: a port that is half written would parse too.
            if let Some(address) = said.filter(|_| said == before) {
                return Ok(Self { process, address });
            }
            before = said;
            let ended = process.try_wait()?;
            if ended.is_some() || began.elapsed() > START {
                drop(process.kill());
                drop(process.wait());
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{command:?} wrote no address ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                if !status.success() {
                    eprintln!("a server that was told to stop ended with {status}");
                }
                return Ok(());
            }
            if began.elapsed() > STOP {
                bail!("a server that was told to stop goes on");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both say so where it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
