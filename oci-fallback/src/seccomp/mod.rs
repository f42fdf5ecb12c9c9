//! Owns what a container's processes may ask of the kernel, and what no filter of VYR's lets anybody know of.

mod profile;

use std::sync::OnceLock;

use base64::Engine as _;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule, TargetArch, sock_filter,
};
use serde_json::{Value, json};

/// The namespaces of clone(2): `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NAMESPACES: u64 = 0x7e02_0000;

/// The execution domains of personality(2) that are no danger: Linux, 32 bits, 16-bit user ids, both; and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The address families of socket(2) from which a container could reach the machine below: only those up to this one, and
/// not `AF_VSOCK`, which is above.
const LAST_FAMILY: u64 = 39;
/// And not `AF_ALG`, the kernel's cryptography.
const ALG: u64 = 38;

/// The filter, compiled for this machine.
///
/// # Errors
/// The compiler's own words.
pub(crate) fn program() -> Result<BpfProgram, String> {
    compile().map_err(|error| error.to_string())
}

fn compile() -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut rules: std::collections::BTreeMap<i64, Vec<Rule>> =
        allowed().map(|(_, number)| (number, Vec::new())).collect();
    let one = |argument, is, value| Rule::new(vec![Condition::new(argument, Length::Qword, is, value)?]);
    rules.insert(libc::SYS_clone, vec![one(0, Is::MaskedEq(NAMESPACES), 0)?]);
    rules.insert(
        libc::SYS_personality,
        PERSONALITIES.into_iter().map(|value| one(0, Is::Eq, value)).collect::<Result<_, _>>()?,
    );
    let family = |is, value| Condition::new(0, Length::Dword, is, value);
    rules.insert(libc::SYS_socket, vec![Rule::new(vec![family(Is::Le, LAST_FAMILY)?, family(Is::Ne, ALG)?])?]);
    let errno = |number: i32| u32::try_from(number).map(SeccompAction::Errno);
    let filter = SeccompFilter::new(rules, errno(libc::EPERM)?, SeccompAction::Allow, arch)?;
    let mut program = missing()?;
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Some calls aren't there at all, so that programs take the older one: `clone3`, whose flags a filter can't see, and
/// whatever is newer than what was known when this was written. Goes before a filter, and leaves all others to it.
///
/// # Errors
/// A machine whose `clone3` has no number.
pub fn missing() -> Result<BpfProgram, std::num::TryFromIntError> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const ENOSYS: u32 = 0x0005_0000 | 38; // SECCOMP_RET_ERRNO
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    Ok(vec![
        step(LOAD, 0, 0, 0), // the number
        step(EQUAL, 1, 0, u32::try_from(libc::SYS_clone3)?),
        step(AT_LEAST, 0, 1, profile::UNKNOWN),
        step(RETURN, 0, 0, ENOSYS),
    ])
}

fn allowed() -> impl Iterator<Item = (&'static str, i64)> {
    let all = profile::EVERYWHERE.iter().chain(profile::HERE).chain(profile::NEWER);
    all.map(|(name, number)| (name.trim_start_matches("SYS_"), *number))
}

/// The filter as `crun` takes it from an annotation.
///
/// # Errors
/// The compiler's own words.
pub(crate) fn encoded() -> Result<String, String> {
    let mut bytes = Vec::new();
    for step in program()? {
        // struct sock_filter of linux/filter.h
        bytes.extend(step.code.to_ne_bytes());
        bytes.extend([step.jt, step.jf]);
        bytes.extend(step.k.to_ne_bytes());
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The same for the configuration of any engine.
pub(crate) fn config() -> Value {
    static CONFIG: OnceLock<Value> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let names: Vec<_> = allowed().map(|(name, _)| name).collect();
            let allow =
                |names: &[&str], args: Value| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args });
            let mut calls = vec![
                json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
                json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
                allow(
                    &["clone"],
                    json!([{ "index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]),
                ),
                allow(
                    &["socket"],
                    json!([
                        { "index": 0, "value": LAST_FAMILY, "op": "SCMP_CMP_LE" },
                        { "index": 0, "value": ALG, "op": "SCMP_CMP_NE" },
                    ]),
                ),
            ];
            for value in PERSONALITIES {
                calls.push(allow(&["personality"], json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }])));
            }
            let arch = if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };
            json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": libc::EPERM,
                "architectures": [arch],
                "syscalls": calls,
            })
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel takes at most 4096 steps: seccomp(2).
    #[test]
    fn the_filter_fits() {
        let steps = program().unwrap().len();
        assert!(steps > 300 && steps <= 4096, "{steps}");
        assert_eq!(encoded().unwrap().len(), (steps * 8).div_ceil(3) * 4);
    }

    #[test]
    fn what_leads_out_is_not_in_the_list() {
        let names: Vec<_> = allowed().map(|(name, _)| name).collect();
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "swapon",
            "swapoff",
            "open_by_handle_at",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "fsopen",
            "fsmount",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "quotactl",
            "syslog",
            "acct",
            "settimeofday",
            "iopl",
            "ioperm",
            "personality",
            "socket",
            "vhangup",
            "chroot",
        ] {
            assert!(!names.contains(&name), "{name}");
        }
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
