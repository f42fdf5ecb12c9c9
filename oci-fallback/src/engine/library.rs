//! Owns the use of libcontainer, and what it leaves to its users: the last step to the program.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifySocket};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::process::{Pid, WaitStatus};
use seccompiler::BpfProgram;

use super::{Engine, Word, heard, tell};
use crate::keeper::Place;
use crate::keeper::wire::{Order, Refusal};
use crate::process::Process;

/// libcontainer, in the maker.
#[derive(Debug)]
pub(super) struct Library;

impl Engine for Library {
    fn make(&self, place: &Place, order: &Order, told: &OwnedFd) -> i32 {
        match make(place, order, told) {
            Ok(process) => {
                tell(told, &Word::Process(process));
                0
            }
            Err(words) => {
                tell(told, &Word::Failed(words));
                1
            }
        }
    }

    fn made(&self, _: &Place, _: WaitStatus, said: &[u8]) -> Result<Pid, Refusal> {
        heard(said)?.ok_or_else(|| Refusal::Failed("the container was not made, and nobody said why".into()))
    }

    fn never_ran(&self, _: &Place, _: WaitStatus) -> Option<Refusal> {
        None
    }
}

fn make(place: &Place, order: &Order, told: &OwnedFd) -> Result<i32, String> {
    // Compiled here, where there is time: its process may only install it.
    let filter = crate::seccomp::program().map_err(|error| format!("can't compile the seccomp filter: {error}"))?;
    let told = told.try_clone().map_err(|error| error.to_string())?;
    let process = Rc::new(order.process.clone());
    let other = order.user && (process.uid, process.gid) != (0, 0);
    let last = LastStep { process, other, filter: Rc::new(filter), told: Rc::new(told) };
    let container = ContainerBuilder::new(order.id.clone(), SyscallType::default())
        .with_executor(last)
        .with_root_path(&place.state)
        .and_then(|builder| builder.as_init(&place.bundle).with_systemd(false).with_detach(true).build())
        .map_err(|error| chain(&error))?;
    let process = container.pid().ok_or("libcontainer names no process")?;
    // What `Container::start` does, without the state that nobody reads.
    NotifySocket::new(container.root.join(NOTIFY_FILE))
        .notify_container_start()
        .map_err(|error| format!("can't start the container: {error}"))?;
    Ok(process.as_raw())
}

/// An error with its sources: libcontainer's own words often say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        source = error.source();
    }
    words
}

/// From the container as libcontainer leaves it (in its namespaces, root and folder, as its user, without the capabilities
/// that it isn't to have) to the program.
#[derive(Clone)]
struct LastStep {
    process: Rc<Process>,
    /// It has to become another user, in a user namespace where there is one alone.
    other: bool,
    filter: Rc<BpfProgram>,
    told: Rc<OwnedFd>,
}

impl Executor for LastStep {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let Some((name, arguments)) = self.process.argv.split_first() else { return Err(ExecutorError::InvalidArg) };
        // The library's own, which it only marks to be closed. From here on it uses none, nor anything of ours.
        if let Err(error) = crate::keeper::close_but(&self.told) {
            tell(&self.told, &Word::Failed(format!("can't close descriptors: {error}")));
            return Err(ExecutorError::Other("descriptors".into()));
        }
        let words = match find(name, &self.process) {
            Ok(program) => {
                if self.other
                    && let Err(error) = rename_user(self.process.uid, self.process.gid)
                {
                    tell(&self.told, &Word::Failed(format!("can't become user {}: {error}", self.process.uid)));
                    return Err(ExecutorError::Other("user".into()));
                }
                // std undoes what Rust's start has done to signals, and what else a new program shouldn't inherit.
                let mut command = std::process::Command::new(&program);
                command.arg0(name).args(arguments).env_clear();
                command.envs(self.process.env.iter().map(|(name, value)| (name, value)));
                // This also sets no_new_privs, without which it would need a privilege.
                if let Err(error) = seccompiler::apply_filter(&self.filter) {
                    tell(&self.told, &Word::Failed(format!("can't install the seccomp filter: {error}")));
                    return Err(ExecutorError::Other("seccomp".into()));
                }
                let error = command.exec();
                format!("can't execute {}: {}", program.display(), plain(&error))
            }
            Err(words) => words,
        };
        tell(&self.told, &Word::Program(words.clone()));
        Err(ExecutorError::Other(words))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The environment is given to the program, not to this process.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// Makes the only user there is appear under another number, by one more user namespace: to the files of its own it is
/// still the same. It has no capabilities in that namespace once the program runs, for it isn't root there.
fn rename_user(uid: u32, gid: u32) -> io::Result<()> {
    // libcontainer has made the process one whose files in /proc are root's, but this is to be written by itself.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    crate::keeper::unshare(rustix::thread::UnshareFlags::NEWUSER)?;
    fs::write("/proc/self/uid_map", format!("{uid} 0 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} 0 1"))
}

/// Without the number that std adds.
fn plain(error: &io::Error) -> String {
    let words = error.to_string();
    words.split(" (os error").next().unwrap_or(&words).to_lowercase()
}

/// Where the program is: a name without `/` is looked for in `PATH`, an empty part of which is the working folder. Like the
/// shell, a file that can't be executed is passed over, and named when there is no other.
fn find(name: &str, process: &Process) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("the program's name is empty".into());
    }
    if name.contains('/') {
        let path = Path::new(&process.cwd).join(name);
        return is_executable(&path).map(|()| path).map_err(|error| format!("can't execute {name}: {}", plain(&error)));
    }
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    let mut passed = None;
    for folder in path.split(':') {
        let file = Path::new(&process.cwd).join(folder).join(name);
        match is_executable(&file) {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => passed = Some((file, error)),
            Err(_) => {}
        }
    }
    Err(match passed {
        Some((file, error)) => format!("can't execute {}: {}", file.display(), plain(&error)),
        None => format!("`{name}` is not in the image's PATH ({path})"),
    })
}

fn is_executable(path: &Path) -> io::Result<()> {
    let file = fs::metadata(path)?;
    // The kernel decides for this user; here only what nobody could execute is passed over.
    if file.is_dir() || file.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(())
}
