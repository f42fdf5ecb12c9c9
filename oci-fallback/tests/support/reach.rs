//! Owns the cases of what a container must not get hold of: this machine's files, by way of what made it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use rustix::fs::StatVfsMountFlags;
use vyr_oci_fallback::container::{Mount, Outcome, RunError};
use vyr_oci_fallback::engine::Choice;

use super::ends::child_of;
use super::{World, argv, sh};

/// CVE-2019-5736: an image whose program is `/proc/self/exe`, with a loader of its own, is executed as the program of this
/// machine that made the container. Here that is the test itself, which then tries to change its own file.
pub(super) fn own_program_is_out_of_reach(world: &World) {
    // `crun` runs its init from a copy of its own.
    if world.engine != Choice::Libcontainer {
        return;
    }
    let libraries = tempfile::tempdir().unwrap();
    fs::set_permissions(libraries.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let Some(path) = line.split_ascii_whitespace().nth(5).map(Path::new).filter(|path| path.is_absolute()) else {
            continue;
        };
        if path.to_string_lossy().contains(".so") {
            fs::copy(path, libraries.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let before = fs::metadata("/proc/self/exe").unwrap();
    let mut wish = argv(&["/proc/self/exe", "--attack"]);
    wish.process.env.push(("LD_LIBRARY_PATH".into(), "/lib64".into()));
    wish.mounts = ["/lib64", "/lib"]
        .map(|to| Mount { source: libraries.path().to_owned(), destination: to.into(), read_only: true })
        .into();
    let ran = world.run(wish);
    ran.ended(&Outcome::Exited(0));
    assert!(ran.stdout.starts_with("attacking\n"), "{} {}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout.matches("refused").count(), 3, "{}", ran.stdout);
    let after = fs::metadata("/proc/self/exe").unwrap();
    assert_eq!((before.mode(), before.uid(), before.ctime()), (after.mode(), after.uid(), after.ctime()));
}

/// In the container: changes nothing of it even where that is allowed.
pub(super) fn attack() -> ! {
    println!("attacking");
    let own = "/proc/self/exe";
    let mode = fs::metadata(own).unwrap().permissions();
    println!("mode {}", told(fs::set_permissions(own, mode)));
    println!("owner {}", told(std::os::unix::fs::chown(own, Some(0), Some(0))));
    println!("content {}", told(fs::OpenOptions::new().append(true).open(own).map(|_| ())));
    std::process::exit(0)
}

fn told(end: std::io::Result<()>) -> String {
    end.map_or_else(|error| format!("refused: {error}"), |()| "allowed".into())
}

/// The same for all engines, as seen from outside.
pub(super) fn keeper_runs_from_no_file(world: &World) {
    let (gate, keeper) = forms(world, "/proc/self/exe");
    for (_, form) in [gate, keeper] {
        assert!(form.contains(StatVfsMountFlags::RDONLY), "{form:?}");
    }
    // A program without a path, as one whose file has been replaced.
    let memory = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    std::io::copy(&mut fs::File::open("/proc/self/exe").unwrap(), &mut fs::File::from(memory.try_clone().unwrap()))
        .unwrap();
    let from = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let readable = fs::File::open(from).unwrap();
    drop(memory);
    let (gate, keeper) = forms(world, &format!("/proc/self/fd/{}", readable.as_raw_fd()));
    for (file, _) in [gate, keeper] {
        assert!(file.contains("memfd:vyr-container"), "{file}");
    }
}

type Form = (String, StatVfsMountFlags);

/// What the two processes of a keeper run from that `program` has started.
fn forms(world: &World, program: &str) -> (Form, Form) {
    let id = sh("").id + "-form";
    let mut caller = world.other_from(program, "hold", &id).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let gate = child_of(caller.id());
    let forms = [gate, child_of(gate)].map(|pid| {
        let exe = format!("/proc/{pid}/exe");
        (fs::read_link(&exe).unwrap().display().to_string(), rustix::fs::statvfs(exe).unwrap().f_flag)
    });
    caller.kill().unwrap();
    caller.wait().unwrap();
    forms.into()
}

/// An engine that follows a link of the image's at a mount point makes devices and links in a folder of this machine.
pub(super) fn links_at_mount_points(world: &World) {
    for own in ["proc", "sys", "dev"] {
        for (flat, link) in [(false, true), (true, true), (false, false)] {
            let (layer, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            fs::write(outside.path().join("ptmx"), "mine").unwrap();
            if link {
                std::os::unix::fs::symlink(outside.path(), layer.path().join(own)).unwrap();
            } else {
                fs::write(layer.path().join(own), "").unwrap();
            }
            let mut wish = sh("true");
            wish.over = Some(layer.path().to_owned());
            wish.flat = flat;
            let ran = world.run(wish);
            let names: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["ptmx"], "{:?}", ran.end);
            match &ran.end {
                Err(RunError::Failed(words)) if *words == format!("the image's /{own} is not a folder") => {}
                other => panic!("{own}: {other:?}"),
            }
        }
    }
}

/// CVE-2024-21626: what makes a container has folders of this machine open, through which a program's name can lead out.
pub(super) fn descriptors_lead_nowhere(world: &World) {
    for number in 3..24 {
        let folder = format!("/proc/self/fd/{number}/.");
        for (name, path) in [(folder.as_str(), "/bin"), ("busybox", folder.as_str())] {
            let mut wish = argv(&[name, "true"]);
            wish.process.env[0].1 = path.into();
            let ran = world.run(wish);
            let Err(RunError::Program(words)) = &ran.end else { panic!("{number}: {name}: {:?}", ran.end) };
            // Of a folder it would say that it can't be executed.
            if world.engine == Choice::Libcontainer && name == folder {
                assert!(!words.contains("permission"), "{words}");
            }
        }
    }
}
