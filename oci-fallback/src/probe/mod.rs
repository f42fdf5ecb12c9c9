//! Owns what can be told of this machine before anything runs: engines, cgroups, namespaces, overlayfs, and what each lacks.

mod cgroups;
mod engines;
mod memo;
pub(crate) mod trial;

use crate::engine::Choice;
use crate::snapshot::{Method, Rights};

/// What works here.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Root or an ordinary user.
    pub rights: Rights,
    /// How root file systems are made.
    pub method: Method,
    /// The engines that work, the best first.
    pub engines: Vec<Choice>,
    /// What to tell people, a line each: what was looked at, what was found, whether it works, what to do next.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// `None`: it doesn't work; `Some(false)`: it works less well.
    pub works: Option<bool>,
    /// What was found.
    pub found: String,
    /// What to do.
    pub next: Option<String>,
}

/// Looks. `engine` is a path that a person has set, which then goes first. Takes some milliseconds: keep the answer.
#[must_use]
pub fn look(engine: Option<&std::path::Path>) -> Machine {
    let rights = rights();
    let trial = trial::run(rights == Rights::User);
    let mut findings = vec![namespaces(rights, &trial), overlay(&trial)];
    findings.extend(cgroups::look(rights));
    let (engines, found) = engines::look(engine, trial.containers.is_ok());
    findings.extend(found);
    let method = if trial.overlay.is_ok() { Method::Overlay } else { Method::Flat };
    Machine { rights, method, engines, findings }
}

/// As [`look`], for who only runs something: without findings on cgroups and on engines that aren't needed, and without a
/// trial where `memo`, of an earlier call, has the answer. With what came of it, to be kept for the next call: `None` where
/// `memo` still holds, or where containers can't be made, which somebody may mend.
#[must_use]
pub fn look_briefly(engine: Option<&std::path::Path>, memo: Option<&str>) -> (Machine, Option<String>) {
    let rights = rights();
    let conditions = memo::Conditions::now();
    let known = memo.and_then(|memo| conditions.recall(memo));
    let (trial, memo) = match known {
        Some(overlay) => {
            let overlay = if overlay { Ok(()) } else { Err("as it was found before".into()) };
            (trial::Trial { containers: Ok(()), overlay }, None)
        }
        None => {
            let trial = trial::run(rights == Rights::User);
            let memo = trial.containers.is_ok().then(|| conditions.note(trial.overlay.is_ok())).flatten();
            (trial, memo)
        }
    };
    let mut findings = vec![namespaces(rights, &trial), overlay(&trial)];
    let engines = if engine.is_none() && trial.containers.is_ok() {
        // It goes first, so nobody asks for the others.
        vec![Choice::Libcontainer]
    } else {
        let (engines, found) = engines::look(engine, trial.containers.is_ok());
        findings.extend(found);
        engines
    };
    let method = if trial.overlay.is_ok() { Method::Overlay } else { Method::Flat };
    (Machine { rights, method, engines, findings }, memo)
}

fn rights() -> Rights {
    if rustix::process::geteuid().is_root() { Rights::Root } else { Rights::User }
}

fn namespaces(rights: Rights, trial: &trial::Trial) -> Finding {
    let who = match rights {
        Rights::Root => "as root",
        Rights::User => "as an ordinary user, in user namespaces",
    };
    match &trial.containers {
        Ok(()) => Finding {
            name: "namespaces",
            works: Some(true),
            found: format!("containers can be made {who}"),
            next: None,
        },
        Err(words) => Finding {
            name: "namespaces",
            works: None,
            found: format!("containers can't be made {who}: {words}"),
            next: Some(match rights {
                Rights::Root => "give this process CAP_SYS_ADMIN: in Docker, run it with --privileged".into(),
                Rights::User => {
                    "allow user namespaces (`sysctl -w user.max_user_namespaces=15000`; on Ubuntu also `sysctl -w \
                    kernel.apparmor_restrict_unprivileged_userns=0`), or run vyr as root"
                        .into()
                }
            }),
        },
    }
}

fn overlay(trial: &trial::Trial) -> Finding {
    match &trial.overlay {
        Ok(()) => {
            Finding { name: "overlayfs", works: Some(true), found: "images share their layers".into(), next: None }
        }
        Err(words) => Finding {
            name: "overlayfs",
            works: Some(false),
            found: format!(
                "it can't be mounted, so each image is unpacked whole, and none has a root that can be written: {words}"
            ),
            next: Some("load it with `modprobe overlay`; as an ordinary user it takes Linux 5.11 or later".into()),
        },
    }
}
