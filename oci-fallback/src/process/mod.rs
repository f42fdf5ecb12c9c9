//! Owns what the first process of a container is: from the image's config and what the run asks for, as Docker's users
//! expect the two to be joined.

mod users;

use oci_spec::image::ImageConfiguration;
use std::collections::HashMap;

use crate::snapshot::Rootfs;

/// What a run says about the process. What it leaves open, the image's config says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// In place of the image's entrypoint; then its default arguments don't count either.
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's default arguments (`Cmd`); none leaves them.
    pub args: Vec<String>,
    /// Over the image's variables, by name.
    pub env: Vec<(String, String)>,
    /// `user`, `uid`, `user:group`, `uid:gid`.
    pub user: Option<String>,
    /// An absolute path.
    pub working_dir: Option<String>,
}

/// The first process, with nothing left to look up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment, with `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Where it starts; made if it is missing and the root can be written.
    pub cwd: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Folders that the image says hold data: each is a fresh writable one, with what the image has there.
    pub volumes: Vec<String>,
}

/// Why there is no process to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Neither the config nor the run names a command.
    #[error("the image's config has neither an entrypoint nor a command, and none was given")]
    NoCommand,
    /// The user isn't in the image.
    #[error("the image knows no user `{0}`")]
    UnknownUser(String),
    /// The group isn't in the image.
    #[error("the image knows no group `{0}`")]
    UnknownGroup(String),
    /// Something in the config or the overrides is not what it has to be.
    #[error("{0}")]
    Invalid(String),
}

/// What `PATH` is where nobody says: Docker's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The signal where the image names none: SIGTERM.
const STOP: i32 = libc::SIGTERM;

/// How many volumes an image may have: each is a mount.
const VOLUMES: usize = 64;

/// How many bytes arguments and environment may have together: Linux takes no more, execve(2).
const WORDS: usize = 2 << 20;

/// Joins the image's config with what the run says.
///
/// # Errors
/// [`ProcessError`].
pub fn resolve(config: &ImageConfiguration, overrides: &Overrides, root: &Rootfs) -> Result<Process, ProcessError> {
    let config = config.config().as_ref();
    let argv = argv(
        config.and_then(|config| config.entrypoint().as_deref()).unwrap_or_default(),
        config.and_then(|config| config.cmd().as_deref()).unwrap_or_default(),
        overrides,
    )?;
    let wanted = overrides.user.as_deref().or(config.and_then(|config| config.user().as_deref())).unwrap_or_default();
    let user = users::resolve(wanted, root)?;
    let env = environment(config.and_then(|config| config.env().as_deref()).unwrap_or_default(), overrides, &user.home);
    let cwd = overrides.working_dir.as_deref().or(config.and_then(|config| config.working_dir().as_deref()));
    let process = Process {
        argv,
        env,
        cwd: working_dir(cwd.unwrap_or_default())?,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        stop_signal: match config.and_then(|config| config.stop_signal().as_deref()) {
            None | Some("") => STOP,
            Some(name) => signal(name)
                .ok_or_else(|| ProcessError::Invalid(format!("the image's stop signal {name:?} is none")))?,
        },
        volumes: volumes(config.and_then(|config| config.volumes().as_deref()).unwrap_or_default())?,
    };
    check(&process)?;
    Ok(process)
}

/// As `docker run`: another entrypoint also does away with the image's arguments, and other arguments replace them.
fn argv(entrypoint: &[String], cmd: &[String], overrides: &Overrides) -> Result<Vec<String>, ProcessError> {
    let (entrypoint, cmd) = match &overrides.entrypoint {
        Some(own) => (own.as_slice(), &[][..]),
        None => (entrypoint, cmd),
    };
    let args = if overrides.args.is_empty() { cmd } else { &overrides.args };
    let argv: Vec<String> = entrypoint.iter().chain(args).cloned().collect();
    if argv.first().is_none_or(String::is_empty) {
        return Err(ProcessError::NoCommand);
    }
    Ok(argv)
}

/// The image's variables in their order, each with the last value that anybody gives it, then the run's own.
fn environment(image: &[String], overrides: &Overrides, home: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    // An image may list very many.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let image = image.iter().map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    let own = overrides.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in image.chain(own) {
        match places.get(name).and_then(|at| all.get_mut(*at)) {
            Some((_, old)) => value.clone_into(old),
            None if name.is_empty() => {}
            None => {
                places.insert(name, all.len());
                all.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    for (name, value) in [("PATH", PATH), ("HOME", home)] {
        if !places.contains_key(name) {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    all
}

/// A relative one is below `/`, as Docker takes it from an image.
fn working_dir(path: &str) -> Result<String, ProcessError> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.split('/').any(|part| part == "..") {
        return Err(ProcessError::Invalid(format!("the working folder {path:?} goes upwards")));
    }
    Ok(path)
}

fn volumes(listed: &[String]) -> Result<Vec<String>, ProcessError> {
    if listed.len() > VOLUMES {
        return Err(ProcessError::Invalid(format!("the image has {} volumes; {VOLUMES} is the most", listed.len())));
    }
    let mut volumes: Vec<String> = Vec::new();
    for path in listed {
        let bad =
            !path.starts_with('/') || path.trim_matches('/').is_empty() || path.split('/').any(|part| part == "..");
        let kernel = ["/proc", "/sys", "/dev"].iter().any(|own| std::path::Path::new(path).starts_with(own));
        if bad || kernel {
            return Err(ProcessError::Invalid(format!("the image's volume {path:?} is no place for one")));
        }
        volumes.push(path.clone());
    }
    // One in another comes after it, or it would be covered.
    volumes.sort();
    volumes.dedup();
    Ok(volumes)
}

/// A name with or without `SIG`, in any case, `RTMIN+n`, `RTMAX-n`, or a number.
fn signal(name: &str) -> Option<i32> {
    const LAST: i32 = 64;
    const FIRST_REAL_TIME: i32 = 34;
    // signal(7), in the order of their numbers on the machines that images are made for.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let valid = |number: i32| (1..=LAST).contains(&number).then_some(number);
    if let Ok(number) = name.parse() {
        return valid(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let more: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return valid(FIRST_REAL_TIME.checked_add(more)?).filter(|number| *number >= FIRST_REAL_TIME);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let less: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        return valid(LAST.checked_sub(less)?).filter(|number| *number >= FIRST_REAL_TIME);
    }
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    NAMES.iter().position(|other| *other == name).and_then(|at| i32::try_from(at + 1).ok())
}

/// What no program can be given.
fn check(process: &Process) -> Result<(), ProcessError> {
    let env = process.env.iter().flat_map(|(name, value)| [name, value]);
    let mut bytes = 0;
    for word in process.argv.iter().chain(env).chain([&process.cwd]) {
        if word.contains('\0') {
            return Err(ProcessError::Invalid(format!("{word:?} has a zero byte in it")));
        }
        bytes += word.len() + 1;
    }
    if bytes > WORDS {
        return Err(ProcessError::Invalid(format!(
            "arguments and environment have {bytes} bytes; {WORDS} is the most"
        )));
    }
    match process.env.iter().find(|(name, _)| name.contains('=')) {
        Some((name, _)) => Err(ProcessError::Invalid(format!("the variable {name:?} has a `=` in its name"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
