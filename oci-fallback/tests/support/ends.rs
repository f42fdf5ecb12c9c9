//! Owns the cases of how a container ends before its time, and that nothing of it is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use vyr_oci_fallback::container::{Outcome, RunError};

use super::{Ran, World, sh};

pub(super) fn cancel(world: &World) {
    for (script, grace, least, most) in [
        ("trap 'exit 0' TERM; while :; do sleep 0.05; done", 10_000, 0, 5_000),
        ("trap '' TERM; sleep 1000 & while :; do sleep 0.05; done", 400, 400, 5_000),
    ] {
        let mut wish = sh(script);
        wish.stop_grace = Duration::from_millis(grace);
        let told = std::rc::Rc::new(std::cell::Cell::new(None));
        let noted = told.clone();
        let ran = world.run_until(wish, |cancel| async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            noted.set(Some(Instant::now()));
            cancel.cancel();
        });
        let took = told.get().unwrap().elapsed();
        ran.ended(&Outcome::Cancelled);
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{script}: {took:?}");
        nothing_left(&ran);
    }
}

/// To kill doesn't wait for the stop signal, and neither for the rest of a grace that has begun.
pub(super) fn kill(world: &World) {
    for asked_before in [false, true] {
        let mut wish = sh("trap 'echo asked' TERM; sleep 1000 & while :; do sleep 0.05; done");
        wish.stop_grace = Duration::from_secs(60);
        let told = std::rc::Rc::new(std::cell::Cell::new(None));
        let noted = told.clone();
        let ran = world.run_until_killed(wish, |cancel, kill| async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            if asked_before {
                cancel.cancel();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            noted.set(Some(Instant::now()));
            kill.cancel();
        });
        let took = told.get().unwrap().elapsed();
        ran.ended(&Outcome::Cancelled);
        assert_eq!(ran.stdout, if asked_before { "asked\n" } else { "" });
        assert!(took < Duration::from_secs(5), "{took:?}");
        nothing_left(&ran);
    }
    let ran = world.run_until_killed(sh("sleep 1000"), |_, kill| async move { kill.cancel() });
    match &ran.end {
        Err(RunError::Cancelled) => {}
        Ok(execution) if execution.outcome == Outcome::Cancelled => {}
        other => panic!("{other:?}"),
    }
}

pub(super) fn cancel_before(world: &World) {
    let ran = world.run_until(sh("sleep 1000"), |cancel| async move { cancel.cancel() });
    match &ran.end {
        Err(RunError::Cancelled) => {}
        Ok(execution) if execution.outcome == Outcome::Cancelled => {}
        other => panic!("{other:?}"),
    }
}

pub(super) fn future_dropped(world: &World) {
    let before = Traces::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rootfs = world.rootfs();
    let wish = sh("trap '' TERM; sleep 1001");
    let id = wish.id.clone();
    let (stdio, streams) = super::streams(b"");
    let request = super::request(wish, &rootfs, stdio);
    runtime.block_on(async {
        let never = tokio_util::sync::CancellationToken::new();
        let run = vyr_oci_fallback::container::run(&world.engine, request, &never);
        assert!(tokio::time::timeout(Duration::from_millis(800), run).await.is_err());
    });
    // The readers end when the last process that holds the streams has.
    let _ = streams.map(|stream| stream.join().unwrap());
    before.left_by(&id);
}

pub(super) fn caller_killed(world: &World) {
    let before = Traces::now();
    let id = sh("").id + "-caller";
    let mut caller = world.other(&id).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    caller.kill().unwrap();
    caller.wait().unwrap();
    before.left_by(&id);
}

/// Held by those after whom it is swept: what one leaves, another's sweep would remove.
static SWEPT: Mutex<()> = Mutex::new(());

pub(super) fn keeper_killed(world: &World) {
    let _alone = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    for inner in [false, true] {
        let before = Traces::now();
        let id = sh("").id + if inner { "-inner" } else { "-outer" };
        let mut caller = world.other(&id).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(caller.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        // The keeper, too, has to hear that it runs.
        std::thread::sleep(Duration::from_millis(300));
        let outer = child_of(caller.id());
        let victim = if inner { child_of(outer) } else { outer };
        let victim = Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
        rustix::process::kill_process(victim, Signal::KILL).unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        assert!(line.contains("outcome: Signalled(9)") && line.contains("keeper was killed"), "{line}");
        caller.wait().unwrap();
        before.left_by(&id);
    }
}

/// A terminal and a service's manager send their signals to all processes, and only the caller is to heed them.
pub(super) fn signals_to_all(world: &World) {
    let before = Traces::now();
    let id = sh("").id + "-signals";
    let mut caller =
        world.other_from("/proc/self/exe", "obey", &id).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(line(), "up\n");
    let pid = |number: u32| Pid::from_raw(i32::try_from(number).unwrap()).unwrap();
    let gate = child_of(caller.id());
    let groups = [caller.id(), gate].map(|number| rustix::process::getpgid(Some(pid(number))).unwrap());
    for process in [gate, child_of(gate)] {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
            rustix::process::kill_process(pid(process), signal).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    std::io::Write::write_all(&mut caller.stdin.take().unwrap(), b"stop\n").unwrap();
    assert_eq!(line(), "asked\n");
    let end = line();
    assert!(end.contains("outcome: Cancelled"), "{end}");
    caller.wait().unwrap();
    assert_ne!(groups[0], groups[1]);
    before.left_by(&id);
}

/// Nobody is left who could clean up, and a sweep does.
pub(super) fn all_killed(world: &World) {
    let _alone = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Traces::now();
    let id = sh("").id + "-all";
    let mut caller = world.other(&id).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let outer = child_of(caller.id());
    let keeper = child_of(outer);
    let signal = |pid: u32, signal| {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    // The caller must not see the keeper's end, nor the keeper the caller's.
    signal(caller.id(), Signal::STOP);
    signal(keeper, Signal::KILL);
    caller.kill().unwrap();
    caller.wait().unwrap();
    let alive = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while alive(outer) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // All processes end with the keeper.
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "");
    if !world.is_user() {
        assert!(!before.left(&id).is_empty(), "a cgroup outlives them");
    }
    vyr_oci_fallback::keeper::sweep();
    before.left_by(&id);
}

pub(super) fn child_of(parent: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    children.split_ascii_whitespace().next().expect("a child").parse().unwrap()
}

#[track_caller]
pub(super) fn nothing_left(ran: &Ran) {
    Traces::default().left_by(&ran.id);
}

/// What a run could leave on this machine.
#[derive(Default)]
struct Traces {
    mounts: Option<String>,
}

impl Traces {
    fn now() -> Self {
        Self { mounts: fs::read_to_string("/proc/self/mountinfo").ok() }
    }

    /// Nothing of the run whose id begins with `id`, after a moment: whoever was killed can't be waited for.
    #[track_caller]
    fn left_by(&self, id: &str) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.left(id);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn left(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let read = |file: &str| {
                String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).replace('\0', " ")
            };
            let command = read("cmdline");
            if read("environ").contains(&format!("CASE={id}")) {
                left.push(format!("process {pid} {command}"));
            }
            let cgroups = read("cgroup");
            if cgroups.contains(&format!("vyr-{id}")) {
                left.push(format!("process {pid} {command} in {cgroups}"));
            }
        }
        folders(Path::new("/sys/fs/cgroup"), &format!("vyr-{id}"), &mut left);
        if let Some(before) = &self.mounts {
            // Others mount things too, but neither there nor of these folders.
            let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let ours = |line: &&str| line.contains("vyr-containers-") || line.contains(" /sys/fs/cgroup");
            let new = now.lines().filter(ours).filter(|line| !before.lines().any(|other| other == *line));
            left.extend(new.map(|line| format!("mount {line}")));
        }
        left
    }
}

fn folders(folder: &Path, name: &str, left: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().starts_with(name) {
                left.push(entry.path().display().to_string());
            }
            folders(&entry.path(), name, left);
        }
    }
}
