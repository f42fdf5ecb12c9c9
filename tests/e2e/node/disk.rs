//! A disk that is full for a while under a node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use super::registry_http::{Http, MANIFEST, manifest};
use crate::support::{Home, Node, tool};

/// A node whose data folder is a file system of so many bytes, in a space of mounts of its own.
fn on_small_disk(home: &Home, size: &str) -> Node {
    fs::create_dir_all(home.vyr_home()).unwrap();
    let script = format!(r#"mount -t tmpfs -o size={size} none "$VYR_HOME" || exit 77; exec "$0" "$@""#);
    let mut command = home.command(tool("unshare"));
    command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_vyr"), "serve"]);
    Node::start_by(home, command, &[])
}

/// Leaves so many bytes.
fn fill(path: &Path, free: u64) {
    let mut file = File::create(path).unwrap();
    let full = loop {
        if let Err(e) = file.write(&[1; 4096]) {
            break e;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    let length = file.metadata().unwrap().len();
    file.set_len(length - free).unwrap();
}

#[tokio::test]
async fn a_node_whose_disk_was_full_goes_on_when_there_is_room_again() {
    let home = Home::new();
    let node = on_small_disk(&home, "16m");
    // The node's own view of it: here the folder is empty.
    let filler = format!("/proc/{}/root{}/filler", node.child.id(), home.vyr_home().display());
    let http = Http::of(&node);
    let (config, layer) = (http.blob("a", b"{}").await, http.blob("a", b"layer").await);
    let manifest = manifest(&config, &layer, 5, "");
    let tag = async |name: String| {
        let path = format!("/v2/a/manifests/{name}");
        http.send("PUT", &path, &[("content-type", MANIFEST)], manifest.clone()).await.status().as_u16()
    };
    assert_eq!(tag("first".to_owned()).await, 201);
    let mut answers = BTreeMap::<u16, u32>::new();
    for pages in 0..24 {
        fill(Path::new(&filler), pages * 4096);
        // What is full first differs by what is left: a file of the store, a database's log.
        for number in 0..20 {
            *answers.entry(tag(format!("full-{pages}-{number}")).await).or_default() += 1;
        }
        fs::remove_file(&filler).unwrap();
        for number in 0..5 {
            assert_eq!(tag(format!("room-{pages}-{number}")).await, 201, "{}", node.said());
        }
    }
    assert!(answers.len() == 2 && answers.contains_key(&507), "{answers:?}\n{}", node.said());
}
