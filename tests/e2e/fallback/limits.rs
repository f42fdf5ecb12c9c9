//! What a container is given and what it isn't, and how it ends.

use std::time::{Duration, Instant};

use super::{image, run, shell};
use crate::support::{self, Home};

/// Runs a script in the shell's image.
#[track_caller]
fn sh(home: &Home, layout: &str, code: i32, options: &[&str], script: &str) -> (serde_json::Value, String) {
    run(home, code, &[&["--allow-unsigned"], options, &[layout, "--", script]].concat())
}

#[test]
fn it_is_given_what_the_image_says_and_the_run_overrules() {
    let home = Home::new();
    let layout = image(
        &home,
        "config",
        &[
            "--config.entrypoint",
            "/bin/sh",
            "--config.entrypoint",
            "-c",
            "--config.cmd",
            "id -u; pwd; echo $GREETING $HOME",
            "--config.user",
            "worker",
            "--config.workingdir",
            "/home/worker",
            "--config.env",
            "GREETING=hello",
        ],
    );
    let (_, output) = run(&home, 0, &["--allow-unsigned", &layout]);
    assert_eq!(output, "1234\n/home/worker\nhello /home/worker\n");
    let overruled = ["--allow-unsigned", "--user", "0:0", "--workdir", "/tmp", "--env", "GREETING=bye", &layout];
    let (_, output) = run(&home, 0, &overruled);
    assert_eq!(output, "0\n/tmp\nbye /root\n");
    let (_, output) = run(&home, 0, &["--allow-unsigned", "--entrypoint", "/bin/echo", &layout, "--", "words"]);
    assert_eq!(output, "words\n");
    home.vyr(["run", "--allow-unsigned", "--user", "nobody-knows", &layout]).expect(125).says(&["nobody-knows"]);
    home.vyr(["run", "--allow-unsigned", "--entrypoint", "/no/such", &layout]).expect(125).says(&["/no/such"]);
}

#[test]
fn its_root_is_read_only_its_network_is_its_own_and_nothing_of_the_host_is_there() {
    let home = Home::new();
    let layout = shell(&home);
    let (_, output) =
        sh(&home, &layout, 0, &[], "touch /new 2>/dev/null || echo read-only; touch /tmp/new && echo tmp");
    assert_eq!(output, "read-only\ntmp\n");
    let (_, output) = sh(&home, &layout, 0, &["--writable-root"], "touch /new && ls /new");
    assert_eq!(output, "/new\n");
    let (_, output) = sh(&home, &layout, 0, &["--writable-root"], "ls /new 2>/dev/null || echo gone");
    assert_eq!(output, "gone\n");
    let (_, output) = sh(&home, &layout, 0, &[], "cat /proc/net/dev | sed -n 's/:.*//p' | sed 's/ //g'");
    assert_eq!(output, "lo\n");
    let (_, output) =
        sh(&home, &layout, 0, &[], "env | sed 's/=.*//' | sed '/^_$/d' | sed '/^SHLVL$/d' | sed '/^PWD$/d'");
    let mut names: Vec<&str> = output.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH"]);
    let asked = home.vyr(["run", "--allow-unsigned", "--allow-net", "127.0.0.1:80", &layout]);
    asked.expect(125).says(&["127.0.0.1:80", "*:*"]);
}

#[test]
fn a_folder_of_the_host_is_seen_where_it_was_given() {
    let home = Home::new();
    let layout = shell(&home);
    home.write("given/file", "content\n");
    let dir = format!("{}::/given:ro", home.work().join("given").display());
    let (_, output) =
        sh(&home, &layout, 0, &["--dir", &dir], "cat /given/file; touch /given/x 2>/dev/null || echo kept");
    assert_eq!(output, "content\nkept\n");
}

#[test]
fn each_limit_ends_it_by_its_own_name() {
    let home = Home::new();
    let layout = shell(&home);
    let began = Instant::now();
    let (report, _) = sh(&home, &layout, 124, &["--timeout", "500ms"], "sleep 1000");
    assert_eq!(report["outcome"], "timed_out");
    let (report, _) = sh(&home, &layout, 124, &["--cpu", "300ms"], "while true; do true; done");
    assert_eq!(report["outcome"], "timed_out");
    assert!(report["cpu_us"].as_u64().unwrap() < 3_000_000, "{report}");
    let (report, _) = sh(&home, &layout, 137, &["--memory", "32MiB"], "dd if=/dev/zero of=/dev/null bs=200M count=1");
    assert_eq!(report["outcome"], "out_of_memory");
    let (_, output) = sh(
        &home,
        &layout,
        0,
        &["--disk", "4MiB"],
        "dd if=/dev/zero of=/tmp/full bs=1M count=64 2>/dev/null || echo full",
    );
    assert_eq!(output, "full\n");
    let (report, _) = sh(&home, &layout, 130, &[], "kill -INT 1; sleep 0; kill -KILL $$; exit 130");
    assert_eq!(report["outcome"], "exited", "PID 1 is not ended by a signal of its own that it doesn't handle");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_fork_bomb_stays_where_it_is() {
    let home = Home::new();
    let layout = shell(&home);
    let bomb = "f() { f & f & }; f 2>/dev/null; sleep 1; echo survived";
    let ran = home.vyr(["run", "--allow-unsigned", "--pids", "40", "--timeout", "5s", &layout, "--", bomb]);
    assert!(matches!(ran.status, 0 | 2 | 124), "{ran:?}");
}

#[test]
fn what_it_writes_and_reads_passes_through_whole() {
    let home = Home::new();
    let layout = shell(&home);
    let (_, output) = sh(&home, &layout, 0, &[], "dd if=/dev/zero bs=64k count=80 2>/dev/null");
    assert_eq!(output.len(), 80 << 16);
    let command = home.vyr_command(["run", "--allow-unsigned", &layout, "--", "wc -c"]);
    let output = crate::support::run(command, &vec![b'x'; 3_000_000]);
    assert_eq!(output.expect(0).stdout.trim(), "3000000");
}

#[test]
fn the_engine_that_is_named_is_the_one_that_runs_it() {
    let home = Home::new();
    let layout = shell(&home);
    for (named, expected) in [("libcontainer", "libcontainer"), ("crun", "crun")] {
        let (report, _) = run(&home, 0, &["--allow-unsigned", "--container-engine", named, &layout]);
        assert!(report["engine"].as_str().unwrap().starts_with(expected), "{report}");
    }
    let none = home.vyr(["run", "--allow-unsigned", "--container-engine", "/no/such/engine", &layout]);
    none.expect(125).says(&["/no/such/engine", "vyr doctor"]);
}

#[test]
fn a_device_of_an_image_is_none_in_the_container_whichever_engine_makes_it() {
    let home = Home::new();
    let layout = shell(&home);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Block);
    header.set_path("disk").unwrap();
    header.set_mode(0o666);
    header.set_device_major(254).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &b""[..]).unwrap();
    home.write("device.tar", archive.into_inner().unwrap());
    home.tool("umoci", ["raw", "add-layer", "--image", "shell:made", "device.tar"]).expect(0);
    for engine in ["libcontainer", "crun"] {
        let script = "test -e /disk || echo none";
        let (_, output) = run(&home, 0, &["--allow-unsigned", "--container-engine", engine, &layout, "--", script]);
        assert_eq!(output, "none\n", "{engine}");
    }
}

#[test]
fn signals_that_whoever_started_vyr_ignored_reach_a_container() {
    let home = Home::new();
    let layout = shell(&home);
    // As a shell starts what a script puts into the background.
    let mut command = home.command("env");
    command.args(["--ignore-signal=HUP,INT,QUIT", env!("CARGO_BIN_EXE_vyr"), "run", "--allow-unsigned", &layout, "--"]);
    // A shell can't trap what was ignored when it began.
    command.arg(
        "for s in HUP INT QUIT; do trap \"echo $s\" $s; kill -$s $$; done; sed -n s/^SigIgn://p /proc/self/status",
    );
    let ran = support::run(command, b"").expect(0);
    let (traps, ignored) = ran.stdout.split_at("HUP\nINT\nQUIT\n".len().min(ran.stdout.len()));
    assert_eq!(traps, "HUP\nINT\nQUIT\n");
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "signals 1 to 31 are as they are for a program that nobody prepared");
}
