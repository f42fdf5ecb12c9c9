//! Owns which files a confined node may still open, and in which way: its data folder to read and write, what it was told of
//! at its start and what its libraries read later to read, and nothing else. Nothing may be executed, and no TCP port bound but
//! the kernel's choice for a connection that goes out.

use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};

/// The first version that lets a file be moved between folders, as the store does.
pub(super) const LEAST: u32 = 2;
/// The first that keeps files elsewhere from being cut.
pub(super) const WHOLE: u32 = 3;

/// What name look-ups, certificates, time zones and the C library's parts are read from.
const LIBRARIES: [&str; 12] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/share/locale",
    "/var/lib/ca-certificates",
];

/// What of `/etc` is read, where not all of it may be.
const SETTINGS: [&str; 18] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/networks",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
];

/// Where what `/etc/resolv.conf` leads to is exchanged.
const RESOLVERS: [&str; 3] = ["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"];

/// What the kernel says of the machine. Other processes are not among it.
const KERNEL: [&str; 12] = [
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/filesystems",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/proc/sys/net",
    "/sys/fs/cgroup",
    "/sys/devices/system",
    "/sys/kernel/mm",
];

/// Devices that are no way to anything.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Folders that hold much besides what a node was told of: in these a file is let in by itself.
const WIDE: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/pki",
    "/etc/ssl",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/lib",
    "/usr/local",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/tmp",
];

/// The files of one node.
#[derive(Debug, Clone)]
pub struct Files {
    written: PathBuf,
    read: Vec<PathBuf>,
    alone: Vec<PathBuf>,
    user: Option<PathBuf>,
    abstract_notices: bool,
}

impl Files {
    /// Those of the node of this data folder, which has to be there. `user` is the home folder of who starts it.
    #[must_use]
    pub fn new(home: &Path, user: Option<PathBuf>) -> Self {
        let mut read: Vec<PathBuf> = LIBRARIES.iter().chain(&RESOLVERS).chain(&KERNEL).map(PathBuf::from).collect();
        if rustix::process::geteuid().is_root() {
            // What lies there is not all for everybody's eyes, and root's are no bound.
            read.extend(SETTINGS.map(PathBuf::from));
        } else {
            // Whatever this user may read there anyway: files that are exchanged by a new one of their name stay in reach.
            read.push("/etc".into());
        }
        Self { written: home.to_owned(), read, alone: Vec::new(), user, abstract_notices: false }
    }

    /// A folder to read as well.
    pub fn folder(&mut self, path: &Path) {
        self.read.push(absolute(path));
    }

    /// A file to read as well, now and when another one has its name: so it's the folder that is let in, unless that holds
    /// much else, as `/etc` and a home do. Where it is a link, what it leads to is let in in the same way.
    pub fn file(&mut self, path: &Path) {
        let path = absolute(path);
        let real = path.canonicalize().ok();
        for path in std::iter::once(path).chain(real) {
            match path.parent() {
                Some(folder) if self.read.iter().any(|known| folder.starts_with(known)) => {}
                Some(folder) if !self.is_wide(folder) => self.read.push(folder.to_owned()),
                _ => {
                    if !self.alone.contains(&path) {
                        self.alone.push(path.clone());
                    }
                    self.read.push(path);
                }
            }
        }
    }

    /// That the service manager is told by a socket without a file.
    pub fn tells_by_abstract_socket(&mut self) {
        self.abstract_notices = true;
    }

    /// Files that are read no more once another one has their name.
    #[must_use]
    pub fn alone(&self) -> &[PathBuf] {
        &self.alone
    }

    /// Entries of the data folder that are links out of it: what they lead to isn't in reach.
    #[must_use]
    pub fn links_out(&self) -> Vec<PathBuf> {
        let Ok(home) = self.written.canonicalize() else { return Vec::new() };
        let entries = std::fs::read_dir(&home).into_iter().flatten().filter_map(Result::ok);
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        links
            .map(|link| link.path())
            .filter(|link| link.canonicalize().is_ok_and(|to| !to.starts_with(&home)))
            .collect()
    }

    fn is_wide(&self, folder: &Path) -> bool {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        WIDE.iter().any(|wide| Path::new(wide) == real)
            // The home itself, and what it lies in.
            || self.user.as_ref().is_some_and(|user| user.starts_with(&real))
            || self.written.starts_with(&real) && self.written != real
    }

    /// Holds this thread, and what it starts, to them.
    ///
    /// # Errors
    /// The kernel's words.
    pub(super) fn enforce(&self) -> Result<(), String> {
        self.restrict().map_err(|e| e.to_string()).and_then(|status| match status {
            RulesetStatus::NotEnforced => Err("the kernel doesn't enforce it".to_owned()),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        })
    }

    fn restrict(&self) -> Result<RulesetStatus, landlock::RulesetError> {
        let all = AccessFs::from_all(ABI::V5);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        // No program is started from there, and it has no devices but those that stand for what an image's layer removes, whose
        // number is none: see `calls`.
        let own = all & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::IoctlDev);
        let scope = if self.abstract_notices { Scope::Signal.into() } else { Scope::from_all(ABI::V6) };
        let status = Ruleset::default()
            // What newer versions add is taken where it is there.
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::BindTcp)?
            .scope(scope)?
            .create()?
            .add_rules(path_beneath_rules([&self.written], own))?
            .add_rules(path_beneath_rules(&self.read, read))?
            .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?
            // A guest's connection may be bound first, to a port that the kernel chooses.
            .add_rule(NetPort::new(0, AccessNet::BindTcp))?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

/// Which version of Landlock there is.
pub(super) fn version() -> u32 {
    // By what each version can be told to handle; the crate advises against the number itself.
    let handles = |abi: ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let ruleset = ruleset.handle_access(AccessFs::from_all(abi));
        let ruleset = match abi >= ABI::V4 {
            true => ruleset.and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp)),
            false => ruleset,
        };
        let ruleset = match abi >= ABI::V6 {
            true => ruleset.and_then(|ruleset| ruleset.scope(Scope::from_all(abi))),
            false => ruleset,
        };
        ruleset.and_then(Ruleset::create).is_ok()
    };
    let known = [(6, ABI::V6), (5, ABI::V5), (4, ABI::V4), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    known.into_iter().find(|(_, abi)| handles(*abi)).map_or(0, |(number, _)| number)
}

fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_brings_its_folder_unless_that_holds_much_else() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (home, user) = (place.join("vyr"), place.join("me"));
        for folder in ["vyr", "me/keys", "certs/live", "certs/archive"] {
            std::fs::create_dir_all(place.join(folder)).unwrap();
        }
        for file in ["me/x.pem", "me/keys/x.pem", "certs/archive/x1.pem"] {
            std::fs::write(place.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("../archive/x1.pem", place.join("certs/live/x.pem")).unwrap();
        let allowed = |path: &str| {
            let mut files = Files::new(&home, Some(user.clone()));
            let before = files.read.len();
            files.file(&place.join(path));
            let added: Vec<PathBuf> = files.read.split_off(before);
            (added, files.alone)
        };
        let (added, alone) = allowed("me/keys/x.pem");
        assert!(added.iter().all(|path| *path == user.join("keys")) && alone.is_empty(), "{added:?}");
        let (added, alone) = allowed("me/x.pem");
        assert!(added.iter().all(|path| *path == user.join("x.pem")) && alone == [user.join("x.pem")], "{added:?}");
        // A link, and what it leads to now: the next one will be beside that.
        let (added, _) = allowed("certs/live/x.pem");
        assert_eq!(added, [place.join("certs/live"), place.join("certs/archive")]);
        // As an ordinary user all of /etc is let in.
        let root = rustix::process::geteuid().is_root();
        for wide in ["/x.pem", "/tmp/x.pem"].into_iter().chain(root.then_some("/etc/x.pem")) {
            let mut files = Files::new(&home, None);
            files.file(Path::new(wide));
            assert_eq!(files.alone, [PathBuf::from(wide)]);
            assert!(!files.read.iter().any(|path| path == Path::new("/") || path == Path::new("/tmp")));
        }
    }

    #[test]
    fn links_that_lead_out_are_found() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("vyr");
        std::fs::create_dir_all(home.join("a")).unwrap();
        std::os::unix::fs::symlink("a", home.join("inside")).unwrap();
        std::os::unix::fs::symlink("/", home.join("outside")).unwrap();
        let files = Files::new(&home, None);
        let found = files.links_out();
        assert!(found.len() == 1 && found[0].ends_with("outside"), "{found:?}");
    }
}
