//! Owns the tools of this machine: where they are, which versions they are, and how they are called.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// No command of a maker takes this long unless it hangs.
const SECONDS: u32 = 900;

#[derive(Debug)]
struct Tool {
    version: String,
    path: PathBuf,
}

/// What the corpus is made and checked with.
#[derive(Debug)]
pub(crate) struct Kit {
    tools: BTreeMap<String, Tool>,
}

impl Kit {
    /// What `envs/tools` has of the named tools.
    pub(crate) fn find(names: &[&str]) -> Result<Self> {
        let mut tools = BTreeMap::new();
        // It also tells of tools of other sets that are missing, by its exit code.
        let output = Command::new(script()).args(["--check", "corpus"]).output().context(script())?;
        for line in String::from_utf8(output.stdout)?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, version, .., path] = words[..]
                && version != "missing"
            {
                tools.insert(name.to_owned(), Tool { version: upstream(version), path: path.into() });
            }
        }
        for name in names {
            ensure!(tools.contains_key(*name), "{name} is missing; run: envs/tools corpus");
        }
        tools.retain(|name, _| names.contains(&name.as_str()));
        Ok(Self { tools })
    }

    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        Ok(&self.tools.get(name).with_context(|| format!("{name} is not among the tools of this run"))?.path)
    }

    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        self.tools.iter().map(|(name, tool)| (name.clone(), tool.version.clone())).collect()
    }

    /// What a tool prints; its complaint when it fails.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A]) -> Result<String> {
        let mut command = Command::new(self.path(name)?);
        command.args(arguments);
        Ok(String::from_utf8_lossy(&run(command)?.stdout).into_owned())
    }
}

/// `envs/tools` of this checkout.
pub(crate) fn script() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../envs/tools")
}

/// `2.8.2` of Debian's `1:2.8.2+ds1-1`.
fn upstream(version: &str) -> String {
    let bare = version.split_once(':').map_or(version, |(_, rest)| rest);
    bare.split(['+', '-']).next().unwrap_or(bare).to_owned()
}

/// Runs a command to its end, and fails as it does.
pub(crate) fn run(command: Command) -> Result<Output> {
    let output = timed(command, SECONDS, b"")?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let skip = said.trim().chars().count().saturating_sub(2000);
    bail!("{}: {}", output.status, said.trim().chars().skip(skip).collect::<String>())
}

/// Runs a command with an input and an end, which takes what it has started with it.
pub(crate) fn timed(command: Command, seconds: u32, stdin: &[u8]) -> Result<Output> {
    let mut wrapped = Command::new("timeout");
    wrapped.args(["-k", "5", &seconds.to_string()]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = wrapped.spawn().context("timeout")?;
    let mut input = child.stdin.take().context("it was asked for")?;
    std::thread::scope(|scope| {
        // A program that reads nothing may end before all is written.
        let feed = move || drop(input.write_all(stdin));
        std::thread::Builder::new().spawn_scoped(scope, feed).context("a thread for standard input")?;
        child.wait_with_output().with_context(|| format!("{command:?}"))
    })
}
