//! Owns what is found of cgroups.

use super::Finding;
use crate::cgroup::{Controller, Version, hierarchies, trial};
use crate::snapshot::Rights;

/// What each limit of a container would be held by.
pub(super) fn look(rights: Rights) -> Vec<Finding> {
    let hierarchies = hierarchies();
    let tried: Vec<_> = hierarchies.iter().map(|hierarchy| (hierarchy, trial(hierarchy))).collect();
    let layout = match (tried.iter().any(|(one, _)| one.version == Version::V1), tried.is_empty()) {
        (_, true) => "no cgroups are mounted",
        (true, _) => "cgroups version 1",
        (false, _) => "cgroups version 2",
    };
    let mut missing = Vec::new();
    let mut why = None;
    for controller in [Controller::Memory, Controller::Pids, Controller::Cpu] {
        match tried.iter().find(|(hierarchy, _)| hierarchy.controllers.contains(&controller)) {
            Some((_, Ok(()))) => {}
            Some((_, Err(error))) => {
                why = Some(error.to_string());
                missing.push(controller.name());
            }
            None => missing.push(controller.name()),
        }
    }
    if missing.is_empty() {
        return vec![Finding {
            name: "cgroups",
            works: Some(true),
            found: format!("{layout}: the kernel limits memory, processes and CPU"),
            next: None,
        }];
    }
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    vec![Finding {
        name: "cgroups",
        works: Some(false),
        found: format!("{layout}, without {} for vyr{why}: memory is then watched, not limited", missing.join(", ")),
        next: Some(match rights {
            Rights::Root => "mount the controllers, and let this process write its own cgroup".into(),
            Rights::User => {
                "with systemd and cgroups version 2, start vyr with `systemd-run --user --scope -p Delegate=yes vyr …`"
                    .into()
            }
        }),
    }]
}
