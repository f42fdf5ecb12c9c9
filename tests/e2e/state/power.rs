//! Power cuts: a file system of its own is shut down without its last writes, as ext4 offers it for tests of just that.

use std::path::{Path, PathBuf};
use std::process::Command;

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, spec};

/// A file system in a file, which forgets what was not forced to disk.
pub(super) struct Disk {
    folder: tempfile::TempDir,
}

fn sh(program: &str, arguments: &[&std::ffi::OsStr]) {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; as root: apt-get install e2fsprogs mount python3-minimal"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Disk {
    pub(super) fn new() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::File::create(disk.image()).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(disk.mounted()).unwrap();
        sh("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), disk.image().as_ref()]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub(super) fn mounted(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&self) {
        sh("mount", &["-o".as_ref(), "loop".as_ref(), self.image().as_ref(), self.mounted().as_ref()]);
    }

    /// Cuts the power, and puts it on again.
    pub(super) fn cut(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h). To see that the cut cuts, a file that is never
        // forced to disk is made right before it: earlier, and a sync of another program could take it along.
        let script = "import fcntl,os,struct,sys; home=os.open(sys.argv[1],0); open(sys.argv[1]+'/unsynced','w').write('gone'); \
                      fcntl.ioctl(home, 0x8004587d, struct.pack('I', 2))";
        sh("python3", &["-c".as_ref(), script.as_ref(), self.mounted().as_ref()]);
        sh("umount", &[self.mounted().as_ref()]);
        self.mount();
        assert!(!self.mounted().join("unsynced").exists(), "the cut has to lose something");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mounted()).status();
    }
}

/// `vyr` with its data on that disk.
fn on_disk(home: &Home, disk: &Path, arguments: &[&str]) -> crate::support::Output {
    let mut command = home.vyr_command(arguments);
    command.env("VYR_HOME", disk);
    crate::support::run(command, b"")
}

#[tokio::test]
async fn what_a_task_wrote_survives_a_power_cut_once_its_end_is_told() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let disk = Disk::new();
    let mounted = disk.mounted();
    let vyr_home = mounted.to_str().unwrap();
    let vyr = |arguments: &[&str]| on_disk(&home, &mounted, arguments);
    let key = home.machine_key();
    vyr(&["trust", "add", "--key", key.public.to_str().unwrap()]).expect(0);
    vyr(&["state", "create", "kept"]).expect(0);
    let node = Node::start_with(&home, &[], &[("VYR_HOME", vyr_home)]);
    let mut client = node.connect().await;
    let binding = StateBinding { state: "kept".into(), alias: "s".into(), ..StateBinding::default() };
    for n in 0..3 {
        let mut spec = spec(&guest, &[&format!("write:/state/s/{n}:50000")]);
        spec.states = vec![binding.clone()];
        assert_eq!(client.run(spec).await.status(), TaskStatus::Succeeded);
    }
    node.kill();
    disk.cut();
    let shown = vyr(&["state", "show", "kept", "--output", "json"]).expect(0).json();
    let sizes: Vec<_> = shown["files"].as_array().unwrap().iter().map(|f| f["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [50_000; 3]);
    // And the end that was told is still the end.
    let node = Node::start_with(&home, &[], &[("VYR_HOME", vyr_home)]);
    let mut client = node.connect().await;
    let tasks = client.0.list_tasks(ListTasksRequest::default()).await.unwrap().into_inner().tasks;
    assert!(tasks.len() == 3 && tasks.iter().all(|task| task.status() == TaskStatus::Succeeded));
    node.kill();
}

#[test]
fn keys_survive_a_power_cut_once_the_end_is_told() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "keyvalue");
    let disk = Disk::new();
    let vyr = |arguments: &[&str]| on_disk(&home, &disk.mounted(), arguments);
    let key = home.machine_key();
    vyr(&["trust", "add", "--key", key.public.to_str().unwrap()]).expect(0);
    vyr(&["state", "create", "kept", "--kind", "kv"]).expect(0);
    vyr(&["run", "--state", "data=kept", &guest, "--", "data", "set", "k", "first"]).expect(0);
    vyr(&["run", "--state", "data=kept", &guest, "--", "data", "set", "k", "second"]).expect(0);
    disk.cut();
    assert_eq!(vyr(&["state", "get", "kept", "k"]).expect(0).stdout, "second");
}

#[test]
fn what_a_run_wrote_before_its_end_survives_a_power_cut() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state");
    let disk = Disk::new();
    let vyr = |arguments: &[&str]| on_disk(&home, &disk.mounted(), arguments);
    let key = home.machine_key();
    vyr(&["trust", "add", "--key", key.public.to_str().unwrap()]).expect(0);
    vyr(&["state", "create", "kept"]).expect(0);
    let steps = ["mkdir:/state/s/d", "write:/state/s/d/x:100000", "text:/state/s/y:small"];
    vyr(&[&["run", "--state", "s=kept", &guest, "--"][..], &steps].concat()).expect(0);
    disk.cut();
    assert_eq!(vyr(&["state", "get", "kept", "y"]).expect(0).stdout, "small");
    let shown = vyr(&["state", "show", "kept", "--output", "json"]).expect(0).json();
    assert_eq!(shown["used_bytes"].as_u64(), Some(100_005));
    // What the quota counts is what is there.
    let ran = vyr(&["run", "--state", "s=kept", &guest, "--", "ls:/state/s", "rm:/state/s/y"]).expect(0);
    assert_eq!(ran.stdout, "ls ok d y\nrm ok \n");
}
