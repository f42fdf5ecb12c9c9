//! Owns what a measurement stands on: tools, a registry, a home, a signed guest, and the machine's facts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::samples::{Facts, Sample, micros};
use super::{Bench, samples};

/// The version of the `wasmtime` command that is compared with: the library's own.
const WASMTIME: &str = "48.0.8";

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) quick: bool,
    pub(crate) results: PathBuf,
    /// The program to measure, installed in `folder`.
    pub(crate) vyr: PathBuf,
    wasmtime: Option<PathBuf>,
    pub(crate) folder: TempDir,
}

fn wasmtime_root() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).context("no HOME")?;
    Ok(cache.join("vyr/tools/wasmtime"))
}

/// Builds the `wasmtime` command from crates.io with what running a module takes.
pub(crate) fn install_wasmtime() -> Result<()> {
    let root = wasmtime_root()?;
    let status = Command::new("cargo")
        .args(["install", "--locked", "wasmtime-cli", "--version", WASMTIME, "--no-default-features"])
        .args(["--features", "run,compile,cranelift,component-model", "--root"])
        .arg(&root)
        .status()?;
    ensure!(status.success(), "building wasmtime failed");
    Ok(())
}

impl Stage {
    pub(crate) fn new(bench: &Bench) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("vyr");
        let built = std::path::absolute(bench.vyr.clone().unwrap_or(beside))?;
        std::fs::create_dir_all(&bench.results)?;
        let folder = tempfile::tempdir()?;
        // As its peers are: installed, which is a copy. The file that the linker leaves lies in the page cache in small
        // pages, and a process started from it takes some 0.5 ms longer until something has written it anew.
        let vyr = folder.path().join("vyr");
        std::fs::copy(&built, &vyr).with_context(|| format!("{}", built.display()))?;
        Ok(Self { quick: bench.quick, results: bench.results.clone(), vyr, wasmtime: bench.wasmtime.clone(), folder })
    }

    pub(crate) fn wasmtime(&self) -> Result<PathBuf> {
        let installed = wasmtime_root()?.join("bin/wasmtime");
        let path = self.wasmtime.clone().or_else(|| installed.exists().then_some(installed));
        path.context("wasmtime is missing; run: cargo run --release -p bench -- install")
    }

    /// The path of a real client or registry.
    pub(crate) fn tool(name: &str) -> Result<PathBuf> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../envs/tools");
        let output = Command::new(script).args(["path", name]).output()?;
        let path = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(output.status.success() && !path.is_empty(), "{name} is missing; run: envs/tools");
        Ok(path.into())
    }

    /// `vyr` in a home of its own.
    pub(crate) fn vyr(&self, home: &str) -> Command {
        let mut command = Command::new(&self.vyr);
        command.env_clear().env("VYR_HOME", self.folder.path().join(home)).env("HOME", self.folder.path());
        command
    }

    /// The samples that a part takes: `full`, or enough to see that it works.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { 3 } else { full }
    }

    /// Writes the raw file of a part.
    pub(crate) fn keep<T: serde::Serialize>(
        &self,
        part: &str,
        versions: Vec<String>,
        note: &str,
        all: &[T],
    ) -> Result<()> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
        let facts = Facts {
            part: part.to_owned(),
            date: rfc3339(),
            cpu: cpu.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: rustix::system::sysinfo().totalram >> 30,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            versions,
            quick: self.quick,
            note: note.to_owned(),
        };
        samples::write(&self.results.join(format!("{part}.jsonl")), &facts, all)
    }
}

fn rfc3339() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    output
        .ok()
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| format!("{:?}", SystemTime::now()), |s| s.trim().to_owned())
}

/// The first line that a program says of its version.
pub(crate) fn version(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// Runs a command to its end, its output swallowed, and demands success.
pub(crate) fn timed(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().with_context(|| format!("{command:?}"))?;
    let wall = began.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(wall)
}

/// The same, and the most memory that the process held, by the kernel's own high-water mark, looked at every millisecond.
pub(crate) fn timed_with_memory(mut command: Command) -> Result<(Duration, u64)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let seen = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        // The mark never falls but at exec: what is seen before that is this program's own.
        peak = seen.unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(1));
    };
    let wall = began.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok((wall, peak))
}

/// A sample of a command.
pub(crate) fn sample(case: &str, round: usize, command: Command) -> Result<Sample> {
    Ok(Sample { case: case.to_owned(), round, wall_us: micros(timed(command)?), peak_kib: None })
}

/// Output of a command that must succeed.
pub(crate) fn said(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A registry on a loopback port, ended with this value.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    pub(crate) host: String,
}

impl Registry {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("registry.yml");
        let data = folder.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"127.0.0.1:{port}\" }}\n",
                data.display()
            ),
        )?;
        let mut command = Command::new(Stage::tool("docker-registry")?);
        let process = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let registry = Self { process, host: format!("localhost:{port}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(10), "the registry doesn't answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
