//! Owns the reasons found for the failures: a failure without one fails the report, and so does a reason for what works.

use crate::row::Row;
use crate::vyr::{Engine, Rights};

/// Why certain runs fail.
#[derive(Debug)]
pub(crate) struct Explanation {
    case: &'static str,
    /// Nothing stands for any.
    engine: Option<Engine>,
    rights: Option<Rights>,
    /// Words of what went wrong, so that another failure of the same run isn't taken for this one.
    said: &'static str,
    why: &'static str,
}

/// What was found when VYR was measured.
const EXPLANATIONS: &[Explanation] = &[
    Explanation {
        case: "user-of-the-image",
        engine: Some(Engine::Libcontainer),
        rights: Some(Rights::Rootless),
        said: "1500 1500 1500",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: the user's further groups are missing.",
    },
    Explanation {
        case: "owners-of-files",
        engine: Some(Engine::Libcontainer),
        rights: Some(Rights::Rootless),
        said: "mine group no",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: files of others are its own.",
    },
    Explanation {
        case: "nginx",
        engine: Some(Engine::Libcontainer),
        rights: Some(Rights::Rootless),
        said: "exit code 1",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: its workers can't become another.",
    },
    Explanation {
        case: "dnsmasq",
        engine: Some(Engine::Libcontainer),
        rights: Some(Rights::Rootless),
        said: "no servers could be reached",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: the server can't become another, and doesn't start.",
    },
    Explanation {
        case: "owners-of-files",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "mine group no",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: files of others are its own.",
    },
    Explanation {
        case: "nginx",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "exit code 1",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: its workers can't become another.",
    },
    Explanation {
        case: "dnsmasq",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "no servers could be reached",
        why: "An ordinary user's container has one user and one group, since more of them take `newuidmap` and `/etc/subuid`, which VYR doesn't use yet: the server can't become another, and doesn't start.",
    },
    Explanation {
        case: "user-of-the-image",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "0 0 0 /srv/app",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "setuid-gains-nothing",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "uid 0 euid 0",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "file-capabilities-give-nothing",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "uid 0 euid 0",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "user-beyond-65535",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "0 mine",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "number-without-a-name",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "is \"0\"",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "user-and-group-by-name",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "\"0 0\"",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user.",
    },
    Explanation {
        case: "postgresql",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "exit code 1",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user. As root this server doesn't start, or wants to become another.",
    },
    Explanation {
        case: "mariadb",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "standard output is \"\"",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user. As root this server doesn't start, or wants to become another.",
    },
    Explanation {
        case: "memcached",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "exit code 2",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user. As root this server doesn't start, or wants to become another.",
    },
    Explanation {
        case: "mosquitto",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Rootless),
        said: "exit code 1",
        why: "An ordinary user's container runs as its root when an installed engine makes it, whatever the image says; libcontainer gives it the image's user. As root this server doesn't start, or wants to become another.",
    },
    Explanation {
        case: "file-capabilities-give-nothing",
        engine: Some(Engine::Crun),
        rights: Some(Rights::Root),
        said: "exit code 1",
        why: "A file with a capability that the container hasn't can't be executed where its mount lets files have any. VYR mounts the root so that it doesn't, and crun mounts it anew without that.",
    },
];

/// `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
}

impl Explanation {
    fn covers(&self, row: &Row) -> bool {
        fits(self.case, &row.case)
            && self.engine.is_none_or(|engine| engine == row.engine)
            && self.rights.is_none_or(|rights| rights == row.rights)
    }
}

/// Gives a failure its reason.
pub(crate) fn apply(row: &mut Row) {
    row.why = None;
    if !row.ok {
        let said = row.said.as_deref().unwrap_or_default();
        row.why = EXPLANATIONS.iter().find(|one| one.covers(row) && said.contains(one.said)).map(|one| one.why);
    }
}

/// What is said of runs that pass or that nobody made.
pub(crate) fn stale(rows: &[&Row]) -> Vec<String> {
    let mut stale = Vec::new();
    for one in EXPLANATIONS {
        let covered: Vec<_> = rows.iter().filter(|row| one.covers(row)).collect();
        if !covered.iter().any(|row| row.why == Some(one.why)) {
            stale.push(format!("{} explains nothing: {}", one.case, one.why));
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fitting) in
            [("*", "x", true), ("a-*", "a-b", true), ("a", "a-b", false), ("*-b", "a-b", true)]
        {
            assert_eq!(fits(pattern, text), fitting, "{pattern} {text}");
        }
    }
}
