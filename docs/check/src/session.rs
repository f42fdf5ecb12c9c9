//! Owns one shell: a page's commands run in it one after the other, in a home and a network of their own.
//!
//! The network is a namespace that has a loopback device and nothing else. So the node's usual port is free whatever else
//! runs on this machine, and a page that needed another network would fail. Names below `example` are this machine's.
//!
//! Each command writes to a file of its own, so what a background job says later isn't taken for the next command's.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::kit::{Kit, cargo_home, rustup_home};
use crate::page::Step;

/// Reads commands that end with NUL; answers each with its exit code. At the end it asks its jobs to end.
const DRIVER: &str = r#"
set -m
trap : INT
docs_number=0
while IFS= read -r -d '' docs_command; do
  docs_number=$((docs_number + 1))
  eval "$docs_command" </dev/null >"$DOCS_OUTPUT/$docs_number" 2>&1
  echo "$?"
done
for docs_job in $(jobs -p); do kill -TERM -- "-$docs_job"; done 2>/dev/null
wait
"#;

/// How long a job may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(15);
/// How often a file is looked at that somebody else writes.
const LOOK: Duration = Duration::from_millis(10);
/// What /etc/hosts says in a session.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 registry.example node.example edge.example\n";
/// The home as pages have it.
const HOME: &str = "/home/me";

#[derive(Debug)]
pub(crate) struct Session {
    home: TempDir,
    output: TempDir,
    shell: Child,
    commands: Option<ChildStdin>,
    codes: Receiver<String>,
    /// How many commands were sent, and how many have ended.
    number: usize,
    answered: usize,
    limit: Duration,
    namespace: PathBuf,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) output: String,
    pub(crate) exit: i32,
}

impl Session {
    pub(crate) fn start(kit: &Kit, limit: Duration) -> Result<Self> {
        let [home, output] =
            ["home", "output"].map(|name| tempfile::Builder::new().prefix(name).tempdir_in(kit.root()));
        let (home, output) = (home?, output?);
        std::fs::create_dir(home.path().join("tmp"))?;
        let driver = output.path().join("driver");
        std::fs::write(&driver, DRIVER)?;
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        let mut command = Command::new(&kit.unshare);
        command.args(["--net", "--mount"]);
        // Who isn't root has to be it in a namespace, to raise the device; and to be themselves again after that.
        let back = if user.is_root() {
            String::new()
        } else {
            command.args(["--user", "--map-root-user"]);
            format!("{} --user --map-user={user} --map-group={group} ", kit.unshare.display())
        };
        let bash = format!("exec {back}env --default-signal=INT,QUIT bash --norc --noprofile {}", driver.display());
        let hosts = output.path().join("hosts");
        std::fs::write(&hosts, HOSTS)?;
        let (busybox, hosts) = (kit.busybox.display(), hosts.display());
        let ready = format!("{busybox} ip link set lo up && {busybox} mount --bind {hosts} /etc/hosts && {bash}");
        command.args(["sh", "-c", &ready]);
        let saying = output.path().join("shell");
        command
            .current_dir(home.path())
            .env_clear()
            .env("PATH", kit.path())
            .env("HOME", home.path())
            .env("TMPDIR", home.path().join("tmp"))
            .env("LANG", "C.UTF-8")
            .env("CARGO_HOME", cargo_home())
            .env("RUSTUP_HOME", rustup_home())
            .env("GUESTS", kit.guests())
            .env("PROJECT", crate::project()?)
            .env("DOCS_OUTPUT", output.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&saying)?);
        let mut shell = command.spawn().with_context(|| kit.unshare.display().to_string())?;
        let commands = shell.stdin.take();
        let answers = shell.stdout.take().context("it was asked for")?;
        let (sender, codes) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let namespace = PathBuf::new();
        let mut session = Self { home, output, shell, commands, codes, number: 0, answered: 0, limit, namespace };
        if let Err(error) = session.tell(":") {
            let said = std::fs::read_to_string(saying).unwrap_or_default();
            return Err(error.context(format!("no shell in a network of its own: {}", said.trim())));
        }
        let namespace = std::fs::read_link(format!("/proc/{}/ns/net", session.shell.id()))?;
        // All that is in it is ended with the session: it must never be one that others are in.
        ensure!(namespace != std::fs::read_link("/proc/self/ns/net")?, "the shell is not in a network of its own");
        session.namespace = namespace;
        Ok(session)
    }

    /// Runs a command; `right` says of an output whether it is what is waited for, where a command doesn't end.
    pub(crate) fn run(&mut self, step: &Step, right: impl Fn(&str) -> bool) -> Result<Done> {
        let before = self.children()?;
        let mut exit = None;
        if step.interrupt {
            // A shell ends its own loop when what it has in the foreground dies by Ctrl-C.
            self.send(&format!("{{ {}\n}} & wait $! 2>/dev/null", step.command))?;
            exit = self.wait_output(&right)?;
            if exit.is_none() {
                for child in self.children()?.difference(&before) {
                    // It leads a group, since the shell has job control; it may have ended by itself.
                    let pid = Pid::from_raw(*child).context("a process has a number")?;
                    let _ = kill_process_group(pid, Signal::INT);
                }
            }
        } else {
            self.send(&step.command)?;
        }
        let exit = match exit {
            Some(code) => code,
            None => self.code()?,
        };
        if step.in_background() {
            self.wait_output(&right)?;
        }
        Ok(Done { output: self.printed()?, exit })
    }

    /// Waits until the output is right, time is over, or the command has ended: then it is its code.
    fn wait_output(&mut self, right: &impl Fn(&str) -> bool) -> Result<Option<i32>> {
        let started = Instant::now();
        while started.elapsed() < self.limit && !right(&self.printed()?) {
            match self.codes.recv_timeout(LOOK) {
                Ok(code) => {
                    self.answered += 1;
                    return Ok(Some(code.parse()?));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the shell has ended"),
            }
        }
        Ok(None)
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("the session is over")?;
        commands.write_all(format!("{command}\0").as_bytes()).context("the shell has ended")?;
        self.number += 1;
        Ok(())
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        self.send(command)?;
        self.code().map(drop)
    }

    fn code(&mut self) -> Result<i32> {
        match self.codes.recv_timeout(self.limit) {
            Ok(code) => {
                self.answered += 1;
                Ok(code.parse()?)
            }
            Err(RecvTimeoutError::Timeout) => {
                let printed = self.printed()?;
                let lines: Vec<&str> = printed.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                bail!("it still ran after {} s; the last of what it had printed:\n{last}", self.limit.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the shell has ended"),
        }
    }

    /// What the last command has printed so far, with this machine's folders as the reader's.
    fn printed(&self) -> Result<String> {
        let path = self.output.path().join(self.number.to_string());
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.with_context(|| path.display().to_string())?,
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.replace(&self.home.path().display().to_string(), HOME))
    }

    /// The shell's own child processes.
    fn children(&self) -> Result<BTreeSet<i32>> {
        let shell = self.shell.id().to_string();
        let mut children = BTreeSet::new();
        for pid in processes()? {
            // pid (name) state ppid …, where a name may have anything in it.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            if parent == Some(&shell) {
                children.insert(pid);
            }
        }
        Ok(children)
    }

    /// Asks the jobs to end, and ends what is left in the session's network.
    pub(crate) fn end(&mut self) -> Result<()> {
        drop(self.commands.take());
        if self.answered < self.number {
            // It doesn't get as far as to its own end.
            self.signal(Signal::TERM)?;
        }
        let started = Instant::now();
        while self.shell.try_wait()?.is_none() && started.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
        self.signal(Signal::KILL)?;
        self.shell.wait()?;
        Ok(())
    }

    /// To all that is in the session's network: the shell, and what it started and lost sight of.
    fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.namespace.as_os_str().is_empty() {
            return Ok(self.shell.kill()?);
        }
        for pid in processes()? {
            let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net"));
            if namespace.is_ok_and(|namespace| namespace == self.namespace) {
                // It may have ended just now.
                let _ = kill_process(Pid::from_raw(pid).context("a process has a number")?, signal);
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn processes() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}
