//! Owns a keeper's own namespaces, and the one fork that they need.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

/// Enters new mount and pid namespaces; as an ordinary user also a user namespace in which that user is root and nobody else
/// exists. The pid namespace is for the children.
///
/// # Errors
/// What the kernel refuses, in words.
pub(super) fn enter(user: bool) -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    let as_user = user || !uid.is_root();
    if as_user {
        flags |= UnshareFlags::NEWUSER;
    } else {
        // The groups of whoever started vyr are no business of a container's.
        rustix::thread::set_thread_groups(&[]).map_err(|error| format!("can't leave the groups: {error}"))?;
    }
    unshare(flags).map_err(|error| match as_user {
        true => format!(
            "this user can't make a user namespace ({error}): see `sysctl user.max_user_namespaces` and, on Ubuntu, \
             `kernel.apparmor_restrict_unprivileged_userns`"
        ),
        false => format!("can't enter a new namespace: {error}"),
    })?;
    if as_user {
        // Without it the kernel takes no group map of an ordinary user: user_namespaces(7).
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("can't set {file}: {error}"))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {} 1", uid.as_raw()))?;
        write("gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    Ok(())
}

/// Moves this process into new namespaces.
///
/// # Errors
/// The kernel's own.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(deprecated, reason = "the one flag that makes it unsafe is FILES, which nobody here asks for")]
    Ok(rustix::thread::unshare(flags)?)
}

/// Runs `child` in a child of this process, which ends with what it returns.
///
/// # Errors
/// The kernel's own.
pub(super) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    #[expect(unsafe_code, reason = "there is no safe fork")]
    // SAFETY: a keeper has one thread from its start to its end, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            let code = child();
            #[expect(clippy::exit, reason = "the child has done all that it was for")]
            std::process::exit(code)
        }
        pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error),
    }
}

/// Keeps out all signals that can be. For a process that only waits for its child, which would be killed with it: whoever
/// sends a signal to all of a service or a terminal means that vyr is to end, and vyr then ends its containers, each by its
/// own stop signal. The child itself, the first of its pid namespace, gets none that it has no handler for: pid_namespaces(7).
pub fn block_signals() {
    mask(true);
}

/// Takes that back, for a process whose children are a container's: they inherit the mask and what is ignored, and whoever
/// started this may have kept signals out, as a shell does SIGINT and SIGQUIT of what it starts with `&` in a script.
pub(super) fn take_signals() {
    mask(false);
    // Rust's own runtime ignores SIGPIPE, and whoever executes a container has taken that back.
    for signal in (1..=libc::SIGSYS).filter(|signal| *signal != libc::SIGPIPE) {
        #[expect(unsafe_code, reason = "rustix has no dispositions of signals that the C library doesn't know of")]
        // SAFETY: the default runs no code of this process; of SIGKILL and SIGSTOP it is refused.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

fn mask(blocked: bool) {
    #[expect(unsafe_code, reason = "rustix has no signal masks that the C library doesn't know of")]
    // SAFETY: the set is filled in before it is used, and the old mask isn't asked for.
    unsafe {
        let mut set = std::mem::MaybeUninit::uninit();
        if blocked {
            libc::sigfillset(set.as_mut_ptr());
        } else {
            libc::sigemptyset(set.as_mut_ptr());
        }
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Closes all that this process has open.
pub(super) fn close_all() {
    #[expect(unsafe_code, reason = "descriptors that others own are closed")]
    // SAFETY: called in the outer process, which from here on only waits for its child and uses none of them.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
    }
}

/// Closes all that this process has open but its three streams and `kept`, also what is closed when a program is executed:
/// until then `/proc/self/fd` leads through a folder among it out of a container's root, past its every link (CVE-2024-21626).
///
/// # Errors
/// The kernel's own.
pub(crate) fn close_but(kept: &OwnedFd) -> io::Result<()> {
    let kept = kept.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.max(2) + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        #[expect(unsafe_code, reason = "descriptors that others own are closed")]
        // SAFETY: called in a process that becomes another program or ends, and uses none of them before.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits for the end of a child: its code, or 128 and the signal.
pub(super) fn wait(child: Pid) -> i32 {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                return status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(1);
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Ends this process when its parent ends.
///
/// # Errors
/// The kernel's own.
pub(super) fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}
