//! Owns what is promised of a container.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use vyr_oci_fallback::container::{Limits, Mount, Network, Outcome, RunError};
use vyr_oci_fallback::engine::Choice;

use super::{Case, Ran, World, argv, sh};

/// All cases by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("exit_codes", exit_codes),
    ("signals", signals),
    ("arguments_environment_and_folder", arguments_environment_and_folder),
    ("users", users),
    ("read_only_root", read_only_root),
    ("writable_root_is_discarded", writable_root_is_discarded),
    ("volumes_keep_the_images_content", volumes_keep_the_images_content),
    ("disk_is_bounded", disk_is_bounded),
    ("no_network_but_loopback", no_network_but_loopback),
    ("network_of_the_machine", network_of_the_machine),
    ("fork_bomb", fork_bomb),
    ("memory", memory),
    ("cpu", cpu),
    ("wall_clock", wall_clock),
    ("cancel", cancel),
    ("cancel_before", cancel_before),
    ("future_dropped", future_dropped),
    ("caller_killed", caller_killed),
    ("keeper_killed", keeper_killed),
    ("all_killed", all_killed),
    ("flat_root", flat_root),
    ("ten_megabytes_through", ten_megabytes_through),
    ("no_privileges", no_privileges),
    ("kernel_is_masked", kernel_is_masked),
    ("no_such_program", no_such_program),
    ("mounts", mounts),
    ("own_names", own_names),
    ("pipes_break", pipes_break),
];

fn exit_codes(world: &World) {
    for code in [0, 1, 42, 137, 255] {
        let ran = world.run(sh(&format!("exit {code}")));
        let execution = ran.ended(&Outcome::Exited(code));
        assert!(execution.create > Duration::ZERO && execution.run < Duration::from_secs(20), "{execution:?}");
    }
}

fn signals(world: &World) {
    // Its first process gets only the signals that it has a handler for; a shell's `exec` has none.
    world.run(sh("sh -c 'kill -9 $$'; exit $?")).ended(&Outcome::Exited(137));
    let mut wish = sh("trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done");
    wish.process.stop_signal = libc::SIGUSR1;
    let ran = world.run_until(wish, |cancel| async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cancel.cancel();
    });
    let execution = ran.ended(&Outcome::Cancelled);
    assert!(execution.run < Duration::from_secs(4), "the stop signal is the image's: {execution:?}");
}

fn arguments_environment_and_folder(world: &World) {
    let mut wish = argv(&["sh", "-c", "printf '<%s>' \"$@\"; env; pwd", "zero", "a b", "", "*", "ü"]);
    wish.process.env.push(("EMPTY".into(), String::new()));
    wish.process.env.push(("LINES".into(), "one\ntwo".into()));
    wish.process.cwd = "/made/here".into();
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert!(ran.stdout.starts_with("<a b><><*><ü>"), "{}", ran.stdout);
    let environment: Vec<_> = ran.stdout.trim_start_matches("<a b><><*><ü>").lines().collect();
    for line in ["PATH=/usr/bin:/bin", "EMPTY=", "LINES=one", "two", "/made/here"] {
        assert!(environment.contains(&line), "{line}: {environment:?}");
    }
    assert!(!ran.stdout.contains("CARGO") && !ran.stdout.contains("LISTEN"), "{}", ran.stdout);
}

fn users(world: &World) {
    let mut wish = sh("id -u; id -g; id -G; touch /tmp/own; stat -c %u /tmp/own");
    wish.process.uid = 1000;
    wish.process.gid = 1001;
    wish.process.groups = vec![10, 44];
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::Exited(0));
    if world.is_user() {
        // There is one user, who has the image's number where the engine can do that.
        let lines: Vec<_> = ran.stdout.lines().collect();
        if world.engine == Choice::Libcontainer {
            assert_eq!(lines, ["1000", "1001", "1001", "1000"]);
        } else {
            assert_eq!(lines, ["0", "0", "0", "0"]);
            assert!(execution.notes.iter().any(|note| note.contains("1000:1001")), "{execution:?}");
        }
        return;
    }
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines, ["1000", "1001", "1001 10 44", "1000"]);
    // Root has none of the groups of whoever started it, and may become another.
    let ran = world.run(sh("id -G; su app -c 'id -u'"));
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), ["0", "1000"]);
}

fn read_only_root(world: &World) {
    let ran = world.run(sh("touch /srv/x 2>&1; touch /x 2>&1; \
        for folder in /tmp /run /var/tmp /dev/shm; do echo $folder > $folder/x && cat $folder/x; done; stat -c %a /tmp"));
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout.matches("Read-only file system").count(), 2, "{}", ran.stdout);
    assert!(ran.stdout.ends_with("/tmp\n/run\n/var/tmp\n/dev/shm\n1777\n"), "{}", ran.stdout);
}

fn writable_root_is_discarded(world: &World) {
    let write = |script| {
        let mut wish = sh(script);
        wish.writable_root = true;
        world.run(wish)
    };
    let ran = write("echo new > /srv/new && rm /etc/passwd && mkdir /top && cat /srv/new");
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout, "new\n");
    write("test ! -e /srv/new && test -e /etc/passwd && test ! -e /top").ended(&Outcome::Exited(0));
    assert!(!world.root.join("srv/new").exists() && world.root.join("etc/passwd").exists());
    let names: Vec<_> = fs::read_dir(&world.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "proc" || name == "run"), "no mount point in the image: {names:?}");
}

fn volumes_keep_the_images_content(world: &World) {
    let mut wish =
        sh("cat /var/lib/data/seed; echo mine > /var/lib/data/seed; cat /var/lib/data/seed; echo x > /fresh/x");
    wish.process.volumes = vec!["/fresh".into(), "/var/lib/data".into()];
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout, "from the image\nmine\n");
    assert_eq!(fs::read_to_string(world.root.join("var/lib/data/seed")).unwrap(), "from the image\n");
}

fn disk_is_bounded(world: &World) {
    for (writable_root, place) in [(false, "/tmp"), (true, "/srv")] {
        let mut wish = sh(&format!(
            "dd if=/dev/zero of={place}/big bs=64k count=200 2>&1; dd if=/dev/zero of=/var/tmp/more bs=64k count=200 2>&1; \
             du -k {place}/big | cut -f1"
        ));
        wish.limits.disk_bytes = 4 << 20;
        wish.writable_root = writable_root;
        if writable_root {
            wish.process.argv[2] = wish.process.argv[2].replace("/var/tmp", "/tmp");
        }
        let ran = world.run(wish);
        ran.ended(&Outcome::Exited(0));
        assert_eq!(ran.stdout.matches("No space left").count(), 2, "{}", ran.stdout);
        let kilobytes: u64 = ran.stdout.lines().last().unwrap().parse().unwrap();
        assert!(kilobytes <= 4096, "{kilobytes}");
    }
}

fn no_network_but_loopback(world: &World) {
    let ran = world.run(sh("ls /sys/class/net; ping -c 1 -W 1 127.0.0.1 > /dev/null 2>&1 || true; \
        (echo answer | nc -l -p 80 127.0.0.1 &) ; sleep 0.3; nc -w 2 127.0.0.1 80 < /dev/null; \
        nc -w 2 192.0.2.1 80 < /dev/null 2>&1; ls /sys/class/net/*/device 2>/dev/null"));
    assert!(ran.stdout.starts_with("lo\nanswer\n"), "{} {}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("Network is unreachable"), "{}", ran.stdout);
}

fn network_of_the_machine(world: &World) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut wish =
        sh(&format!("echo hello | nc -w 2 127.0.0.1 {port}; cat /etc/hosts > /dev/null && ls /sys/class/net"));
    wish.network = Network::Host;
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert_eq!(server.join().unwrap(), "hello\n");
}

fn fork_bomb(world: &World) {
    let mut wish = sh("bomb() { bomb | bomb & }; bomb; sleep 0.5; echo alive; exit 5");
    wish.limits.pids = 40;
    wish.limits.wall = Some(Duration::from_secs(20));
    let ran = world.run(wish);
    assert!(ran.stderr.contains("fork"), "{} {}", ran.stdout, ran.stderr);
    assert!(matches!(ran.end.as_ref().unwrap().outcome, Outcome::Exited(_)), "{:?}", ran.end);
    nothing_left(&ran);
}

fn memory(world: &World) {
    let mut wish = sh("tail /dev/zero");
    wish.limits.memory_bytes = Some(32 << 20);
    wish.limits.wall = Some(Duration::from_secs(30));
    let started = Instant::now();
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::OutOfMemory);
    assert!(started.elapsed() < Duration::from_secs(20));
    if !world.is_user() {
        assert!(execution.notes.is_empty(), "{execution:?}");
        assert!((16 << 20..=33 << 20).contains(&execution.peak_memory_bytes), "{execution:?}");
    }
    let mut wish = sh("echo fits");
    wish.limits.memory_bytes = Some(32 << 20);
    world.run(wish).ended(&Outcome::Exited(0));
}

fn cpu(world: &World) {
    let mut wish = sh("while :; do :; done");
    wish.limits.cpu = Some(Duration::from_millis(300));
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::Cpu);
    let used = execution.cpu;
    assert!(used >= Duration::from_millis(290) && used < Duration::from_millis(900), "{used:?}");
}

fn wall_clock(world: &World) {
    let mut wish = sh("trap '' TERM; sleep 1000");
    wish.limits.wall = Some(Duration::from_millis(700));
    let started = Instant::now();
    let ran = world.run(wish);
    ran.ended(&Outcome::WallClock);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    nothing_left(&ran);
}

fn cancel(world: &World) {
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

fn cancel_before(world: &World) {
    let ran = world.run_until(sh("sleep 1000"), |cancel| async move { cancel.cancel() });
    match &ran.end {
        Err(RunError::Cancelled) => {}
        Ok(execution) if execution.outcome == Outcome::Cancelled => {}
        other => panic!("{other:?}"),
    }
}

fn future_dropped(world: &World) {
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

fn caller_killed(world: &World) {
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

fn keeper_killed(world: &World) {
    for inner in [false, true] {
        let before = Traces::now();
        let id = sh("").id + if inner { "-inner" } else { "-outer" };
        let mut caller = world.other(&id).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(caller.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let outer = child_of(caller.id());
        let victim = if inner { child_of(outer) } else { outer };
        let victim = Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
        rustix::process::kill_process(victim, Signal::KILL).unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        assert!(line.contains("without a word"), "{line}");
        caller.wait().unwrap();
        before.left_by(&id);
    }
}

/// Nobody is left who could clean up, and a sweep does.
fn all_killed(world: &World) {
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
    signal(keeper, Signal::STOP);
    caller.kill().unwrap();
    caller.wait().unwrap();
    signal(keeper, Signal::KILL);
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

/// Where there is no overlayfs, a folder with all of the image is bound, piece by piece.
fn flat_root(world: &World) {
    let mut wish = sh(
        "cat /var/lib/data/seed; echo mine > /data/x; cat /data/x; touch /srv/x /x; ls /proc/1 > /dev/null && id -u app; \
        echo mine > /var/lib/data/seed && cat /var/lib/data/seed",
    );
    wish.process.volumes = vec!["/data".into(), "/var/lib/data".into()];
    wish.flat = true;
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout, "from the image\nmine\n1000\nmine\n", "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("Read-only file system").count(), 2, "{}", ran.stderr);
    assert!(!world.root.join("data").exists());
}

fn child_of(parent: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    children.split_ascii_whitespace().next().expect("a child").parse().unwrap()
}

fn ten_megabytes_through(world: &World) {
    let mut wish = argv(&["cat"]);
    wish.stdin = (0..10 << 20).map(|at: u32| b'a' + u8::try_from(at % 26).unwrap()).collect();
    let expected = wish.stdin.clone();
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert!(ran.stdout.as_bytes() == expected, "{} bytes", ran.stdout.len());
}

fn no_privileges(world: &World) {
    let ran = world.run(sh("grep -E 'NoNewPrivs|Seccomp:|CapAmb|CapInh|CapBnd' /proc/self/status; \
        unshare -U true 2>&1; unshare -n true 2>&1; mount -t tmpfs none /tmp 2>&1; chroot / true 2>&1; \
        mknod /tmp/disk b 8 0 2>&1; hostname other 2>&1; echo 1 > /proc/sys/kernel/panic; \
        dd if=/dev/zero of=/proc/sysrq-trigger count=0 2>&1; ls -l /proc/self/fd | wc -l"));
    let has = |word: &str| assert!(ran.stdout.contains(word), "{word}: {} {}", ran.stdout, ran.stderr);
    has("NoNewPrivs:\t1");
    has("Seccomp:\t2");
    has("CapAmb:\t0000000000000000");
    has("CapInh:\t0000000000000000");
    has("CapBnd:\t00000000000005fb");
    assert_eq!(ran.stdout.matches("Operation not permitted").count(), 5, "{}", ran.stdout);
    assert!(ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
    // A header, the three streams, and the folder that `ls` reads.
    assert_eq!(ran.stdout.lines().last(), Some("5"), "no descriptor is inherited: {}", ran.stdout);
}

fn kernel_is_masked(world: &World) {
    let ran = world
        .run(sh("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls -A /sys/firmware | wc -l; \
        touch /sys/x 2>&1; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; ls /sys/fs/cgroup"));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{}", ran.stdout);
    assert!(lines[2].contains("Read-only file system"), "{}", ran.stdout);
    let processes: u32 = lines[3].parse().unwrap();
    assert!(processes <= 4, "only its own processes: {}", ran.stdout);
    assert_eq!(lines[4], "sh");
    if !world.is_user() {
        let ran = world
            .run(sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"));
        ran.ended(&Outcome::Exited(0));
    }
}

fn no_such_program(world: &World) {
    for (program, words) in
        [("/srv/none", "/srv/none"), ("none", "none"), ("/srv/plain", "/srv/plain"), ("/srv", "/srv")]
    {
        let ran = world.run(argv(&[program]));
        match &ran.end {
            Err(RunError::Program(message)) => {
                let named = message.contains(words)
                    || message.contains("ermission denied")
                    || message.contains("not permitted");
                assert!(named, "{program}: {message}");
            }
            other => panic!("{program}: {other:?}"),
        }
        nothing_left(&ran);
    }
    // A file that may be executed and is no program.
    let mut wish = sh("printf 'no program' > /tmp/x; chmod 755 /tmp/x; /tmp/x; exec /tmp/x");
    wish.limits = Limits::default();
    world.run(wish).end.unwrap();
}

fn mounts(world: &World) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "given\n").unwrap();
    let mount = |source: &Path, destination: &str, read_only| Mount {
        source: source.to_owned(),
        destination: destination.into(),
        read_only,
    };
    let mut wish = sh("cat /in/file /etc/one; touch /in/x 2>&1; echo back > /out/y; ls /etc/made 2>&1");
    wish.mounts = vec![
        mount(folder.path(), "/in", true),
        mount(folder.path(), "/out", false),
        mount(&folder.path().join("file"), "/etc/one", true),
        // The link leads to `/etc` of the container, not of this machine.
        mount(folder.path(), "/srv/out/made", true),
    ];
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert!(ran.stdout.starts_with("given\ngiven\n"), "{} {}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("Read-only file system"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("file\ny\n"), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(folder.path().join("y")).unwrap(), "back\n");
    assert!(!Path::new("/etc/made").exists());
    let mut wish = sh("true");
    wish.mounts = vec![mount(Path::new("/does/not/exist"), "/in", true)];
    let ran = world.run(wish);
    assert!(matches!(&ran.end, Err(RunError::Failed(words)) if words.contains("/does/not/exist")), "{:?}", ran.end);
}

fn own_names(world: &World) {
    let ran = world.run(sh(
        "hostname; cat /etc/hostname; grep -c 'localhost inside' /etc/hosts; ulimit -c; ls /dev | tr '\\n' ' '",
    ));
    ran.ended(&Outcome::Exited(0));
    assert!(ran.stdout.starts_with("inside\ninside\n1\n0\n"), "{}", ran.stdout);
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "stdin", "fd"] {
        assert!(ran.stdout.split_ascii_whitespace().any(|name| name == device), "{device}: {}", ran.stdout);
    }
}

/// A writer whose reader is gone ends by its signal, which Rust's own programs ignore.
fn pipes_break(world: &World) {
    let ran = world.run(sh("(yes; echo $? >&2) | head -1; sleep 0.1"));
    ran.ended(&Outcome::Exited(0));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("y\n", "141\n"));
}

#[track_caller]
fn nothing_left(ran: &Ran) {
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
            let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
            if now != *before {
                left.push(format!("mounts {now}"));
            }
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
