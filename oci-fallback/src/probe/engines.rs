//! Owns what is found of engines.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::engine::Choice;

/// Those that are known to work, the best first; after the one that needs no installation.
const KNOWN: [&str; 3] = ["crun", "runc", "youki"];

/// The name of the engine that needs no installation, as a setting.
const BUILT_IN: &str = "libcontainer";

/// Where to look besides `PATH`, which a service often has short.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// The engines that can be used, and what was found of each.
pub(super) fn look(chosen: Option<&Path>, containers: bool) -> (Vec<Choice>, Vec<Finding>) {
    let mut engines = Vec::new();
    let mut findings = Vec::new();
    let built_in = chosen.is_some_and(|name| name.as_os_str() == BUILT_IN);
    if let Some(path) = chosen.filter(|_| !built_in) {
        // A bare name is looked for as a shell does.
        let found = (path.components().count() == 1).then(|| find(&path.to_string_lossy())).flatten();
        let path = found.as_deref().unwrap_or(path);
        let choice = Choice::Installed(path.to_owned());
        let works = is_program(path) && choice.name() != path.display().to_string();
        findings.push(Finding {
            name: "engine",
            works: works.then_some(containers),
            found: if works {
                format!("{} at {}, as set", choice.name(), path.display())
            } else {
                format!("{} is set, and doesn't answer to `--version`", path.display())
            },
            next: (!works)
                .then(|| "set the path of a crun, runc or youki, or none: vyr has an engine of its own".into()),
        });
        if works && containers {
            engines.push(choice);
        }
        // Who names one wants that one: another in its place would be a surprise.
        return (engines, findings);
    }
    if containers {
        engines.push(Choice::Libcontainer);
    }
    findings.push(Finding {
        name: "engine",
        works: containers.then_some(true),
        found: format!("{}, built in", Choice::Libcontainer.name()),
        next: None,
    });
    for path in installed().into_iter().filter(|_| !built_in) {
        let choice = Choice::Installed(path.clone());
        let name = choice.name();
        if name == path.display().to_string() {
            continue;
        }
        findings.push(Finding {
            name: "engine",
            works: containers.then_some(true),
            found: format!("{name} at {}", path.display()),
            next: None,
        });
        if containers {
            engines.push(choice);
        }
    }
    (engines, findings)
}

fn find(name: &str) -> Option<PathBuf> {
    folders().iter().map(|folder| folder.join(name)).find(|path| path.is_absolute() && is_program(path))
}

fn installed() -> Vec<PathBuf> {
    KNOWN.iter().filter_map(|name| find(name)).collect()
}

fn folders() -> Vec<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "PATH is no setting of vyr's: it is where a person's programs are")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).collect()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
