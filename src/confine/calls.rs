//! Owns which system calls a confined node may make: a list of what its own code, Tokio, Wasmtime, SQLite and the C library
//! use, and no other. Nothing in it starts a program, looks into another process, mounts, or makes a socket that listens.
//!
//! A call whose arguments don't matter costs nothing: the kernel finds out once that the filter allows it, and doesn't run
//! the filter for it again (since Linux 5.11).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule, TargetArch,
};

/// By the C library's constants.
macro_rules! calls {
    ($($number:ident)*) => { &[$(libc::$number),*] };
}

/// Whatever their arguments.
const EVERYWHERE: &[i64] = calls![
    SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep
    SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2
    SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl
    SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs
    SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid
    SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_get_robust_list SYS_getrusage
    SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_lgetxattr SYS_linkat SYS_listxattr
    SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create
    SYS_mincore SYS_mkdirat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect SYS_mremap SYS_msync
    SYS_munlock SYS_munlockall SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pipe2
    SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall
    SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_getscheduler SYS_sched_setaffinity SYS_sched_yield SYS_sendfile
    SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setitimer SYS_setpriority SYS_set_robust_list SYS_setsockopt
    SYS_set_tid_address SYS_setxattr SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice
    SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_truncate SYS_umask SYS_uname
    SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
];

/// Those that newer machines were given no more.
#[cfg(target_arch = "x86_64")]
const HERE: &[i64] = calls![
    SYS_access SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait SYS_eventfd
    SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_open SYS_pause
    SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_stat SYS_symlink SYS_time SYS_unlink
    SYS_utime SYS_utimes
];

/// Those that newer machines were given no more.
#[cfg(not(target_arch = "x86_64"))]
const HERE: &[i64] = &[];

/// cachestat, fchmodat2, map_shadow_stack, futex_wake, futex_wait, futex_requeue, mseal: from 424 on the numbers are the same
/// on every machine.
const NEWER: &[i64] = &[451, 452, 453, 454, 455, 456, 462];

/// `CLONE_THREAD` of clone(2), without which a process is made.
const THREAD: u64 = 0x1_0000;

/// What is in the type of socket(2) besides its flags.
const KIND: u64 = 0xf;

/// Whether this kernel takes filters.
pub(super) fn available() -> bool {
    // prctl(2): EFAULT says that it would, had there been one.
    std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|actions| actions.contains("errno"))
        && TargetArch::try_from(std::env::consts::ARCH).is_ok()
}

/// Holds all threads of this process to the list.
///
/// # Errors
/// The kernel's words.
pub(super) fn enforce() -> Result<(), String> {
    let program = program().map_err(|e| e.to_string())?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| e.to_string())
}

fn program() -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<Rule>> =
        EVERYWHERE.iter().chain(HERE).chain(NEWER).map(|number| (*number, Vec::new())).collect();
    let at = |argument, is, value| Condition::new(argument, Length::Dword, is, value);
    let own = u64::from(std::process::id());
    // Threads, no processes.
    rules.insert(libc::SYS_clone, vec![Rule::new(vec![at(0, Is::MaskedEq(THREAD), THREAD)?])?]);
    // Connections, datagrams, and the kernel's list of addresses; nothing raw.
    let mut sockets = Vec::new();
    // Nor a stream to a local service: Landlock doesn't keep from those (before its version 9), and what runs containers or
    // the session for others listens on one. The service manager takes datagrams.
    for (family, kinds) in [
        (libc::AF_UNIX, &[libc::SOCK_DGRAM][..]),
        (libc::AF_INET, &[libc::SOCK_STREAM, libc::SOCK_DGRAM]),
        (libc::AF_INET6, &[libc::SOCK_STREAM, libc::SOCK_DGRAM]),
    ] {
        for kind in kinds {
            sockets.push(Rule::new(vec![
                at(0, Is::Eq, u64::try_from(family)?)?,
                at(1, Is::MaskedEq(KIND), u64::try_from(*kind)?)?,
            ])?);
        }
    }
    sockets.push(Rule::new(vec![
        at(0, Is::Eq, u64::try_from(libc::AF_NETLINK)?)?,
        at(2, Is::Eq, u64::try_from(libc::NETLINK_ROUTE)?)?,
    ])?);
    rules.insert(libc::SYS_socket, sockets);
    // Not what types into a terminal.
    rules.insert(libc::SYS_ioctl, vec![Rule::new(vec![at(1, Is::Ne, 0x5412)?, at(1, Is::Ne, 0x541c)?])?]);
    // Pipes, and what stands for a removed file in an image's layer: the device with no number.
    rules.insert(libc::SYS_mknodat, vec![Rule::new(vec![at(3, Is::Eq, 0)?])?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, vec![Rule::new(vec![at(2, Is::Eq, 0)?])?]);
    // Of this process alone.
    rules.insert(libc::SYS_prlimit64, vec![Rule::new(vec![at(0, Is::Eq, 0)?])?, Rule::new(vec![at(0, Is::Eq, own)?])?]);
    for call in [libc::SYS_tgkill, libc::SYS_kill] {
        rules.insert(call, vec![Rule::new(vec![at(0, Is::Eq, own)?])?]);
    }
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?;
    let mut program = vyr_oci_fallback::seccomp::missing()?;
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel takes at most 4096 steps: seccomp(2).
    #[test]
    fn the_filter_fits() {
        let steps = program().unwrap().len();
        assert!(steps > 200 && steps <= 4096, "{steps}");
    }

    #[test]
    fn nothing_that_leads_out_is_in_the_list() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_kcmp,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_open_by_handle_at,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_reboot,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_adjtimex,
            libc::SYS_clock_adjtime,
            libc::SYS_personality,
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setresuid,
            libc::SYS_setgroups,
            libc::SYS_capset,
            libc::SYS_listen,
            libc::SYS_clone3,
            libc::SYS_shmget,
            libc::SYS_quotactl,
            libc::SYS_syslog,
            libc::SYS_acct,
        ];
        for call in never {
            assert!(!EVERYWHERE.contains(&call) && !HERE.contains(&call), "{call}");
        }
        let unique: std::collections::BTreeSet<_> = EVERYWHERE.iter().chain(HERE).collect();
        assert_eq!(unique.len(), EVERYWHERE.len() + HERE.len());
    }
}
