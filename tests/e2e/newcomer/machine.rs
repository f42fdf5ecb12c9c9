//! The machine: full disks, folders that can't be written, settings, and what runs containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{Transcript, push_guest};
use crate::fallback::image;
use crate::support::{Home, Registry, tool};

/// `vyr` with a file system of so many bytes for its data folder, in a space of mounts of its own: filled up to `free` bytes,
/// or for reading only.
fn on_small_disk(home: &Home, size: &str, prepare: &str, arguments: &[&str]) -> Command {
    let folder = home.vyr_home();
    fs::create_dir_all(&folder).unwrap();
    let mut command = home.command(tool("unshare"));
    let script = format!(
        "cd '{0}' && mount -t tmpfs -o size={size} none '{1}' && {prepare} && exec '{2}' \"$@\"",
        home.work().display(),
        folder.display(),
        env!("CARGO_BIN_EXE_vyr"),
    );
    command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]).args(arguments);
    command
}

#[test]
fn the_disk_is_full() {
    let (registry, home) = (Registry::start(), Home::new());
    push_guest(&home, &registry, "hello-p1");
    let reference = registry.reference("hello", "v1");
    let other = Home::new();
    let mut seen = Transcript::new(&other, "The disk is full").of(&registry);
    let arguments = ["run", &reference];
    let command = on_small_disk(&other, "64k", "true", &arguments);
    seen.ran(&format!("vyr run {reference}"), command, b"").expect(125);
    let command = on_small_disk(&other, "64k", "true", &["serve", "--listen", "127.0.0.1:0"]);
    seen.ran("vyr serve", command, b"").expect(125);
    seen.is("machine-disk-full");
}

#[test]
fn the_data_folder_can_only_be_read() {
    let (registry, home) = (Registry::start(), Home::new());
    push_guest(&home, &registry, "hello-p1");
    let reference = registry.reference("hello", "v1");
    let other = Home::new();
    other.write("hello.wasm", fs::read(vyr_guests::guest("hello-p1")).unwrap());
    other.write("key.pub", fs::read(home.machine_key().public).unwrap());
    let mut seen = Transcript::new(&other, "The data folder is on a file system that can only be read").of(&registry);
    for arguments in [
        &["run", &reference][..],
        &["push", &reference, "hello.wasm"],
        &["trust", "add", "--key", "key.pub"],
        &["state", "create", "readings"],
        &["serve"],
    ] {
        let read_only = format!("mount -o remount,ro '{}'", other.vyr_home().display());
        let command = on_small_disk(&other, "64k", &read_only, arguments);
        seen.ran(&super::typed("vyr", arguments), command, b"").expect(125);
    }
    seen.is("machine-read-only");
}

#[test]
fn the_data_folder_is_somebody_else_s() {
    let home = Home::new();
    home.vyr(["artifacts"]).expect(0);
    let mut seen = Transcript::new(&home, "The data folder is another user's");
    let command = home.vyr_as_another_user(["state", "create", "readings"]);
    // Root, who is asked here for nobody, passes by this.
    fs::set_permissions(home.vyr_home(), fs::Permissions::from_mode(0o000)).unwrap();
    seen.ran("vyr state create readings", command, b"").expect(2);
    fs::set_permissions(home.vyr_home(), fs::Permissions::from_mode(0o700)).unwrap();
    seen.is("machine-not-mine");
}

#[test]
fn a_setting_has_a_typo() {
    let home = Home::new();
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(home.vyr_home().join("config.toml"), "ofline = true\n").unwrap();
    let mut seen = Transcript::new(&home, "A setting with a typo");
    seen.vyr(&["artifacts"]).expect(2);
    seen.is("machine-setting");
}

#[test]
fn nothing_runs_containers() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = push_guest(&home, &registry, "hello-p1");
    let image = image(&home, "box", &["--config.entrypoint", "/bin/echo", "--config.cmd", "hello"]);
    let mut seen = Transcript::new(&home, "Nothing here runs containers").of(&registry);
    seen.vyr(&["run", "--path", "container", &hello]).expect(125);
    let engine = ["--container-engine", "/usr/local/bin/crun"];
    seen.vyr(&[&engine[..], &["run", "--allow-unsigned", &image]].concat()).expect(125);
    // In a user namespace that may have no further one, as in a container without rights.
    let mut confined = home.command(tool("unshare"));
    let script = r#"echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@""#;
    confined.args([
        "--map-root-user",
        "sh",
        "-c",
        script,
        env!("CARGO_BIN_EXE_vyr"),
        "run",
        "--allow-unsigned",
        &image,
    ]);
    seen.ran(&format!("vyr run --allow-unsigned {image}"), confined, b"").expect(125);
    seen.is("machine-containers");
}
