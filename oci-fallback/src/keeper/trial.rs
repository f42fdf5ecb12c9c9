//! Owns the trial of a keeper's namespaces and mounts, by the same code that keepers run.

use std::fs;
use std::path::Path;

use super::{mounts, namespaces, root};
use crate::probe::trial::Trial;

/// Tries, and says what came of it on standard output.
pub(super) fn run(user: bool) -> i32 {
    if let Err(words) = namespaces::enter(user) {
        return say(&Trial { containers: Err(words), overlay: Err("it can't be tried without namespaces".into()) });
    }
    match namespaces::fork(|| say(&inside(user))) {
        Ok(child) => namespaces::wait(child),
        Err(error) => say(&Trial { containers: Err(error.to_string()), overlay: Err(error.to_string()) }),
    }
}

fn inside(user: bool) -> Trial {
    let words = |error: std::io::Error| error.to_string();
    let containers = mounts::keep_private()
        .and_then(|()| mounts::proc())
        .map_err(|error| format!("/proc can't be mounted: {error}"))
        .and_then(|()| root::cover().map_err(|error| format!("a file system in memory can't be mounted: {error}")));
    let overlay = match &containers {
        Err(_) => Err("it can't be tried without the other mounts".into()),
        Ok(run) => overlay(run, user).map_err(words),
    };
    Trial { containers: containers.map(|_| ()), overlay }
}

fn overlay(run: &Path, user: bool) -> std::io::Result<()> {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| run.join(name));
    for folder in [&lower, &upper, &work] {
        fs::create_dir(folder)?;
    }
    mounts::overlay(&[&lower], &upper, &work, user).map(|_| ())
}

fn say(trial: &Trial) -> i32 {
    use std::io::Write;
    let said = serde_json::to_vec(trial).map_err(std::io::Error::from);
    i32::from(said.and_then(|text| std::io::stdout().write_all(&text)).is_err())
}
