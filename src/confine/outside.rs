//! Owns the process that stays outside when a node confines itself, and does for it the little that it can't do any more. It is
//! this very program, started again under another name before that. What it may do was settled on its command line; a node that
//! was taken over can ask for no more than that:
//!
//! | chore | what is asked | what is not |
//! | --- | --- | --- |
//! | keeper | a container ([`vyr_oci_fallback::keeper::outside`]) | of anything outside of the data folder, by another engine |
//! | login | the login for a registry, which Docker's helpers keep | of a helper that wasn't named at the start |
//! | ready | the node's address in the address file, once | which file |
//! | farewell | the node's socket removed | which file |

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use vyr_oci_fallback::keeper::{self, outside as keepers};

use crate::error::{Error, ErrorKind, Result};
use crate::registry::{self, DockerConfig};

/// What it is called, by which it knows itself.
const NAME: &str = "vyr-outside";
/// The longest chore: a host's name.
const LONGEST: usize = 4096;

/// What it is given to do its chores with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tools {
    /// What may be in a container; none where no engine works.
    pub containers: Option<keepers::Bounds>,
    /// The folder of Docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// The helpers that it named at the start: the node may be able to write it.
    pub helpers: Vec<String>,
    /// The file that gets the node's address.
    pub address_file: Option<PathBuf>,
    /// The node's socket, where it lies outside of the data folder.
    pub socket: Option<PathBuf>,
}

fn docker(folder: Option<PathBuf>) -> DockerConfig {
    folder.map_or(DockerConfig::Anonymous, DockerConfig::Folder)
}

impl Tools {
    /// The helpers that Docker's settings in this folder name now.
    #[must_use]
    pub fn helpers(docker_config: Option<&Path>) -> Vec<String> {
        registry::helpers(&docker(docker_config.map(Path::to_owned)))
    }
}

/// One thing that is asked for. A pipe comes with it for the answer, and for a keeper its socket before that.
#[derive(Debug, Serialize, Deserialize)]
enum Chore {
    Keeper { user: bool },
    Login { registry: String },
    Ready { address: SocketAddr },
    Farewell,
}

/// The node's end. The process ends when it is closed, however the node ends.
#[derive(Debug, Clone)]
pub struct Outside(Arc<OwnedFd>);

impl Outside {
    /// Starts it. From here on keepers and login helpers of this process are started by it.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`]: no process can be started.
    pub fn start(tools: &Tools) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Internal, format!("the process that stays outside can't be started: {e}"))
        };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed(&e))?;
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(serde_json::to_string(tools).map_err(|e| failed(&e))?)
            // No program is looked for where the node may write.
            .current_dir("/")
            // Ctrl-C is for the node, which then says what is to become of its containers.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(&e))?;
        // It ends with this process, and nobody waits for it before.
        drop(child);
        let outside = Self(Arc::new(ours));
        keepers::start_elsewhere(Box::new(outside.clone()));
        let asked = outside.clone();
        registry::log_in_elsewhere(Box::new(move |registry| {
            let mut answer = Vec::new();
            File::from(asked.ask(&Chore::Login { registry: registry.to_owned() }, None)?).read_to_end(&mut answer)?;
            Ok(answer)
        }));
        Ok(outside)
    }

    /// Has the address written to the address file, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]: it can't be written.
    pub fn ready(&self, address: SocketAddr) -> Result<()> {
        let said = self.ask(&Chore::Ready { address }, None).and_then(|answer| {
            let mut said = String::new();
            File::from(answer).read_to_string(&mut said)?;
            Ok(said)
        });
        let failed = |why: String| Err(Error::new(ErrorKind::Storage, why));
        match said {
            Ok(said) if said == DONE => Ok(()),
            Ok(said) if said.is_empty() => failed("the process that stays outside has ended".to_owned()),
            Ok(said) => failed(said),
            Err(e) => failed(format!("the process that stays outside has ended: {e}")),
        }
    }

    /// Has the node's socket removed, if it lies outside of the data folder.
    pub fn farewell(&self) {
        if let Ok(answer) = self.ask(&Chore::Farewell, None) {
            let _ = File::from(answer).read_to_end(&mut Vec::new());
        }
    }

    /// Hands a chore over; the answer is what can be read from the pipe.
    fn ask(&self, chore: &Chore, socket: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
        let (answer, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let bytes = serde_json::to_vec(chore)?;
        let given: Vec<BorrowedFd<'_>> = socket.into_iter().chain([theirs.as_fd()]).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&given)) {
            return Err(io::Error::other("no room for two descriptors"));
        }
        rustix::net::sendmsg(&*self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(answer)
    }
}

impl keepers::Elsewhere for Outside {
    fn start(&self, socket: BorrowedFd<'_>, user: bool) -> io::Result<OwnedFd> {
        self.ask(&Chore::Keeper { user }, Some(socket))
    }
}

const DONE: &str = "done";

/// To be called in `main` after [`vyr_oci_fallback::keeper::run_if_asked`], before any thread: a process that was started to
/// stay outside does so until its node ends, and never returns from here.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != NAME) {
        return;
    }
    let _ = rustix::thread::set_name(c"vyr-outside");
    let tools = arguments.next().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let code = match tools {
        Some(tools) => stay(tools),
        None => 2,
    };
    #[expect(clippy::exit, reason = "this is no vyr: nothing of main may run in it")]
    std::process::exit(code);
}

fn stay(tools: Tools) -> i32 {
    // A service manager sends its signal to all processes of a service, and means the node: this one ends when that has.
    keeper::block_signals();
    let node = io::stdin();
    let (tools, mut told) = (Arc::new(tools), false);
    loop {
        match receive(node.as_fd()) {
            Ok(Some((chore, given))) => take(&tools, chore, given, &mut told),
            // What it doesn't understand it doesn't do.
            Err(Wrong::Chore) => {}
            Ok(None) | Err(Wrong::Socket) => return 0,
        }
    }
}

enum Wrong {
    Chore,
    Socket,
}

/// The next chore; `None` when the node has ended.
fn receive(node: BorrowedFd<'_>) -> Result<Option<(Chore, Vec<OwnedFd>)>, Wrong> {
    let mut buffer = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match rustix::net::recvmsg(node, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(Wrong::Socket),
        }
    };
    let mut given = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            given.extend(descriptors);
        }
    }
    if got.bytes == 0 && given.is_empty() {
        return Ok(None);
    }
    let chore = serde_json::from_slice(buffer.get(..got.bytes).unwrap_or_default()).map_err(|_| Wrong::Chore)?;
    Ok(Some((chore, given)))
}

fn take(tools: &Arc<Tools>, chore: Chore, mut given: Vec<OwnedFd>, told: &mut bool) {
    let Some(answer) = given.pop().map(File::from) else { return };
    match (chore, given.pop()) {
        (Chore::Keeper { user }, Some(socket)) => {
            let tools = Arc::clone(tools);
            beside(move || say(answer, &keep(&tools, &socket, user)));
        }
        (Chore::Login { registry }, None) => {
            let tools = Arc::clone(tools);
            beside(move || {
                let mut answer = answer;
                let docker = docker(tools.docker_config.clone());
                let _ = answer.write_all(&registry::log_in_for(&docker, &registry, &tools.helpers));
            });
        }
        (Chore::Ready { address }, None) if !std::mem::replace(told, true) => {
            let written = tools.address_file.as_deref().map_or(Ok(()), |path| write_address(path, address));
            say(answer, &written.map_or_else(|e| e.why().to_owned(), |()| DONE.to_owned()));
        }
        (Chore::Farewell, None) => {
            if let Some(path) = &tools.socket
                && std::fs::symlink_metadata(path)
                    .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
            {
                let _ = std::fs::remove_file(path);
            }
        }
        _ => {}
    }
}

/// In a thread of its own: it waits, and the node goes on asking. Where there can be none, the answer is none.
fn beside(work: impl FnOnce() + Send + 'static) {
    drop(std::thread::Builder::new().stack_size(256 << 10).spawn(work));
}

fn say(mut answer: File, words: &str) {
    let _ = answer.write_all(words.as_bytes());
}

/// Starts a keeper, waits for it and says how it ended.
fn keep(tools: &Tools, socket: &OwnedFd, user: bool) -> String {
    let Some(bounds) = &tools.containers else {
        return "no container engine worked when the node was started".to_owned();
    };
    let started = keepers::start(socket.as_fd(), user, bounds);
    match started.and_then(|mut keeper| keeper.wait()) {
        Ok(status) => {
            if !status.success() {
                keepers::sweep();
            }
            status.to_string()
        }
        Err(e) => format!("it can't be started: {e}"),
    }
}

/// In one step, so that who waits for the file never reads half of it.
///
/// # Errors
/// [`ErrorKind::Storage`]: it can't be written.
pub fn write_address(path: &Path, address: SocketAddr) -> Result<()> {
    let failed = |e: io::Error| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", path.display()));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(format!("{address}\n").as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
