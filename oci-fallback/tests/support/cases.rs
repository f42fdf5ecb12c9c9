//! Owns what is promised of a container, by name; and the cases of what it is inside.

use std::fs;
use std::path::Path;
use std::time::Duration;

use vyr_oci_fallback::container::{Limits, Mount, Network, Outcome, RunError};
use vyr_oci_fallback::engine::Choice;

use super::ends::{self, nothing_left};
use super::{Case, World, argv, sh};
use super::{limits, reach};

/// All cases by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("exit_codes", exit_codes),
    ("signals", signals),
    ("arguments_environment_and_folder", arguments_environment_and_folder),
    ("users", users),
    ("read_only_root", read_only_root),
    ("writable_root_is_discarded", writable_root_is_discarded),
    ("volumes_keep_the_images_content", volumes_keep_the_images_content),
    ("disk_is_bounded", limits::disk_is_bounded),
    ("no_network_but_loopback", no_network_but_loopback),
    ("network_of_the_machine", network_of_the_machine),
    ("fork_bomb", limits::fork_bomb),
    ("memory", limits::memory),
    ("cpu", limits::cpu),
    ("share_of_processors", limits::share_of_processors),
    ("little_memory", limits::little_memory),
    ("killed_before_the_node", limits::killed_before_the_node),
    ("wall_clock", limits::wall_clock),
    ("cancel", ends::cancel),
    ("kill", ends::kill),
    ("cancel_before", ends::cancel_before),
    ("future_dropped", ends::future_dropped),
    ("caller_killed", ends::caller_killed),
    ("keeper_killed", ends::keeper_killed),
    ("all_killed", ends::all_killed),
    ("signals_to_all", ends::signals_to_all),
    ("flat_root", flat_root),
    ("ten_megabytes_through", ten_megabytes_through),
    ("no_privileges", no_privileges),
    ("kernel_is_masked", kernel_is_masked),
    ("own_program_is_out_of_reach", reach::own_program_is_out_of_reach),
    ("keeper_runs_from_no_file", reach::keeper_runs_from_no_file),
    ("links_at_mount_points", reach::links_at_mount_points),
    ("descriptors_lead_nowhere", reach::descriptors_lead_nowhere),
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
    let mut wish = sh(&format!(
        "echo hello | nc -w 2 127.0.0.1 {port}; cat /etc/hosts /etc/resolv.conf > /dev/null && ls /sys/class/net; ls /sys/fs/cgroup/"
    ));
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
    assert!(!ran.stdout.contains("bundle"), "the keeper's own files: {}", ran.stdout);
    // Of all that is mounted below `/sys`, too.
    let mut wish = sh("awk '$5 ~ \"^/sys\" && $6 ~ /^rw/' /proc/self/mountinfo");
    wish.network = Network::Host;
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert_eq!(ran.stdout, "", "what can be written");
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
    for own in ["/", "/proc/x", "/dev"] {
        let mut wish = sh("true");
        wish.mounts = vec![mount(folder.path(), own, true)];
        let ran = world.run(wish);
        assert!(matches!(&ran.end, Err(RunError::Failed(words)) if words.contains(own)), "{own}: {:?}", ran.end);
    }
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
