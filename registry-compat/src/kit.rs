//! Owns the programs under test: where they are, which versions they are, and the homes that they run in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// No command takes this long unless it hangs; those that move a large blob have more.
const SECONDS: u64 = 120;

#[derive(Debug)]
struct Tool {
    version: String,
    path: PathBuf,
}

/// The programs.
#[derive(Debug)]
pub(crate) struct Kit {
    tools: BTreeMap<String, Tool>,
    pub(crate) root: TempDir,
}

impl Kit {
    /// What `envs/tools` has of the named tools, and `vyr`.
    pub(crate) fn find(vyr: Option<PathBuf>, names: &[&str], set: &str) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../envs/tools");
        let output = Command::new(script).args(["--check", set]).output().context(script)?;
        let text = String::from_utf8(output.stdout)?;
        let mut tools = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, version, .., path] = words[..]
                && version != "missing"
            {
                tools.insert(name.to_owned(), Tool { version: upstream(version), path: path.into() });
            }
        }
        for name in names {
            ensure!(tools.contains_key(*name), "{name} is missing; run: envs/tools {set}");
        }
        tools.retain(|name, _| names.contains(&name.as_str()));
        let path = std::path::absolute(vyr.unwrap_or(std::env::current_exe()?.with_file_name("vyr")))?;
        let said = Command::new(&path).arg("--version").output().with_context(|| format!("{}", path.display()))?;
        let said = String::from_utf8(said.stdout)?;
        let version = said.split_whitespace().nth(1).unwrap_or("?").to_owned();
        tools.insert("vyr".to_owned(), Tool { version, path });
        Ok(Self { tools, root: tempfile::Builder::new().prefix("compat").tempdir()? })
    }

    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        Ok(&self.tools.get(name).with_context(|| format!("{name} is not in this run"))?.path)
    }

    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        self.tools.iter().map(|(name, tool)| (name.clone(), tool.version.clone())).collect()
    }

    pub(crate) fn home(&self) -> Result<Home> {
        Home::new(self.root.path())
    }
}

/// `2.8.2` of Debian's `1:2.8.2+ds1-1`.
fn upstream(version: &str) -> String {
    let bare = version.split_once(':').map_or(version, |(_, rest)| rest);
    bare.split(['+', '-']).next().unwrap_or(bare).to_owned()
}

/// A user's home: each cell has its own, so that no client finds what another one left.
#[derive(Debug)]
pub(crate) struct Home {
    folder: TempDir,
    /// How long a command may take.
    pub(crate) seconds: u64,
}

impl Home {
    fn new(root: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("home").tempdir_in(root)?;
        for name in ["docker", "work", "tmp"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { folder, seconds: SECONDS })
    }

    /// Where commands run.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn vyr_home(&self) -> PathBuf {
        self.folder.path().join("vyr")
    }

    /// A command in this home, with nothing else of the caller's environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("DOCKER_CONFIG", self.folder.path().join("docker"))
            // skopeo reads and writes its own file unless told.
            .env("REGISTRY_AUTH_FILE", self.folder.path().join("docker/config.json"))
            .env("VYR_HOME", self.vyr_home())
            .env("COSIGN_PASSWORD", "");
        command
    }

    /// What a command prints; its complaint when it fails.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, program: &Path, arguments: &[A]) -> Result<String> {
        // `timeout` ends what the command has started too.
        let mut command = self.command(Path::new("timeout"));
        command.args(["-k", "5", &self.seconds.to_string()]).arg(program).args(arguments).stdin(Stdio::null());
        let output = command.output().with_context(|| program.display().to_string())?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let stdout = String::from_utf8_lossy(&output.stdout);
            let said = if stderr.trim().is_empty() { stdout } else { stderr };
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            if output.status.code() == Some(124) {
                bail!("{name} still ran after {} s: {}", self.seconds, said.trim());
            }
            bail!("{name}: {}", said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
