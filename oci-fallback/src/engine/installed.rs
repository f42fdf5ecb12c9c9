//! Owns the use of an installed engine: the command line that `crun`, `runc` and `youki` share, and what their ends mean.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitStatus};

use super::{Engine, Word, heard, tell};
use crate::keeper::Place;
use crate::keeper::wire::{Order, Refusal};

/// An engine's program.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) program: PathBuf,
}

/// Whether this is that engine, by its file's name.
pub(super) fn is(program: &Path, name: &str) -> bool {
    program.file_name().is_some_and(|file| file.to_string_lossy().contains(name))
}

impl Engine for Installed {
    /// `run --detach`: the engine ends as soon as the container's process runs, which then is the keeper's child, so that its
    /// real status is seen, not what an engine makes of it.
    fn make(&self, place: &Place, order: &Order, told: &OwnedFd) -> i32 {
        let mut command = Command::new(&self.program);
        // `runc` looks for the helpers of its checkpoints, `crun` for nothing.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("XDG_RUNTIME_DIR", &place.state);
        command.arg("--root").arg(&place.state).arg("--log").arg(log(place));
        command.args(["--log-format", "json"]);
        if is(&self.program, "crun") {
            // Its cgroup is made and joined already. The others skip hierarchies that they don't see.
            command.args(["--cgroup-manager", "disabled"]);
        }
        command.args(["run", "--detach", "--pid-file"]).arg(pid_file(place));
        command.arg("--bundle").arg(&place.bundle).arg(&order.id);
        let error = command.exec();
        tell(told, &Word::Failed(format!("can't run the engine {}: {error}", self.program.display())));
        1
    }

    fn made(&self, place: &Place, status: WaitStatus, said: &[u8]) -> Result<Pid, Refusal> {
        heard(said)?;
        if status.exit_status() != Some(0) {
            let words = complaint(place).unwrap_or_else(|| format!("{status:?}"));
            return Err(refusal(&self.program, &words));
        }
        fs::read_to_string(pid_file(place))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| Refusal::Failed(format!("{} names no process", self.program.display())))
    }

    /// The last step, execve itself, is done in the container's process after the engine has reported success; its failure
    /// is in the log, and the process ends with 1 or 255.
    fn never_ran(&self, place: &Place, status: WaitStatus) -> Option<Refusal> {
        let words = complaint(place)?;
        let failed = status.exit_status().is_some_and(|code| code != 0) && words.contains("exec");
        failed.then(|| refusal(&self.program, &words))
    }
}

fn log(place: &Place) -> PathBuf {
    place.state.join("log")
}

fn pid_file(place: &Place) -> PathBuf {
    place.bundle.join("pid")
}

/// The last error of the log: a line of JSON each.
fn complaint(place: &Place) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        msg: String,
        level: String,
    }
    let text = fs::read_to_string(log(place)).ok()?;
    text.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "ERROR"))
        .map(|line| line.msg)
}

/// The words by which engines say that a program isn't there or can't be executed.
fn refusal(program: &Path, words: &str) -> Refusal {
    const PROGRAM: [&str; 8] = [
        "executable file",
        "open executable",
        "exec container process",
        "exec format error",
        "exec user process",
        "exec: \"",
        "failed to execvp",
        "executable '",
    ];
    if PROGRAM.iter().any(|sign| words.contains(sign)) {
        return Refusal::Program(words.to_owned());
    }
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    Refusal::Failed(format!("{name}: {words}"))
}

/// `crun version 1.8.1` and the like, from the first line of `--version`.
pub(super) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    let line = line.replacen(" version", "", 1).replacen(':', "", 1);
    (output.status.success() && !line.is_empty()).then_some(line)
}
