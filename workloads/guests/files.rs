//! Works in the folder given (`/data` without): reads, writes, and tries to get out of it. One line an
//! attempt, `NAME ok …` or `NAME denied …`, so that a test can tell exactly which one went wrong.

use std::fs;
use std::path::Path;

fn report(name: &str, result: std::io::Result<String>) {
    match result {
        Ok(text) => println!("{name} ok {}", text.trim_end()),
        Err(error) => println!("{name} denied {error}"),
    }
}

fn main() {
    let root = std::env::args().nth(1).unwrap_or_else(|| "/data".into());
    let root = Path::new(&root);
    report("read", fs::read_to_string(root.join("in.txt")));
    report("write", fs::write(root.join("out.txt"), "from the guest\n").map(|()| String::new()));
    report("read-back", fs::read_to_string(root.join("out.txt")));
    report("mkdir", fs::create_dir(root.join("made")).map(|()| String::new()));
    report("rename", fs::rename(root.join("out.txt"), root.join("renamed.txt")).map(|()| String::new()));
    report("remove", fs::remove_file(root.join("renamed.txt")).map(|()| String::new()));
    // Each of these has to be denied: outside the folder there is nothing for a guest.
    report("dot-dot", fs::read_to_string(root.join("../secret.txt")));
    report("deep-dot-dot", fs::read_to_string(root.join("made/../../secret.txt")));
    report("absolute", fs::read_to_string("/etc/passwd"));
    report("link-out", fs::read_to_string(root.join("link-out")));
    report("link-absolute", fs::read_to_string(root.join("link-absolute")));
    report("write-dot-dot", fs::write(root.join("../planted.txt"), "x").map(|()| String::new()));
}
