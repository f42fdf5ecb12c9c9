//! Owns the process that keeps one container: its mounts, its cgroup, its engine, its end. It is this very program, started
//! again under another name, since an engine forks, which a program with threads can't do, and since all of a container has
//! to end when whoever wanted it ends.

/// To be called first in `main`, before any thread: a process that was started as a keeper is one until it ends and never
/// returns from here.
pub fn run_if_asked() {}
