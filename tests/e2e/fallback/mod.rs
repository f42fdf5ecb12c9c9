//! The container beside a Wasm: when it runs, how, with what, and that nothing is left of it.

mod decision;
mod leftovers;
mod limits;
mod node;
mod publish;
mod state;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Home, architecture, tar_of, tool};

/// An image layout in the home, made by umoci: busybox under all its names, and whatever `config` says. `oci:NAME:made`.
#[track_caller]
pub(crate) fn image(home: &Home, name: &str, config: &[&str]) -> String {
    let busybox = fs::read(tool("busybox")).expect("busybox can be read");
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1234:5678:worker:/home/worker:/bin/sh\n";
    let names =
        ["sh", "echo", "cat", "id", "sleep", "env", "ls", "wc", "sed", "dd", "touch", "mkdir", "pwd", "true", "false"];
    let mut layer = tar_of(&[("bin/busybox", &busybox), ("etc/passwd", passwd), ("etc/group", b"worker:x:5678:\n")]);
    // Before the two empty blocks that end an archive.
    layer.truncate(layer.len() - 1024);
    let mut links = tar::Builder::new(Vec::new());
    for link in names {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        links.append_link(&mut header, format!("bin/{link}"), "busybox").expect("a tar in memory");
    }
    for folder in ["tmp", "root", "home", "home/worker"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        links.append_data(&mut header, format!("{folder}/"), &b""[..]).expect("a tar in memory");
    }
    layer.extend(links.into_inner().expect("a tar in memory"));
    home.write("layer.tar", layer);
    let tagged = format!("{name}:made");
    home.tool("umoci", ["init", "--layout", name]).expect(0);
    home.tool("umoci", ["new", "--image", &tagged]).expect(0);
    home.tool("umoci", ["raw", "add-layer", "--image", &tagged, "layer.tar"]).expect(0);
    let platform = ["config", "--image", &tagged, "--os", "linux", "--architecture", architecture()];
    home.tool("umoci", [&platform[..], config].concat()).expect(0);
    format!("oci:{name}:made")
}

/// The same with a shell as its entrypoint, so that a run's argument is its script.
#[track_caller]
pub(crate) fn shell(home: &Home) -> String {
    image(
        home,
        "shell",
        &["--config.entrypoint", "/bin/sh", "--config.entrypoint", "-c", "--config.cmd", "echo hello from linux"],
    )
}

/// A Wasm that can't start, from its text.
pub(crate) fn wat(home: &Home, name: &str, text: &str) -> PathBuf {
    home.write(name, wat::parse_str(text).expect("it is WebAssembly text"))
}

/// A Wasm that imports what nobody provides.
pub(crate) fn needs_more(home: &Home) -> PathBuf {
    wat(
        home,
        "more.wasm",
        r#"(module (import "env" "of_another_world" (func)) (func (export "_start")) (memory (export "memory") 1))"#,
    )
}

/// Pushes both into a layout of this home, signed by its machine's key; the reference by digest.
#[track_caller]
pub(crate) fn dual(home: &Home, wasm: &std::path::Path, image: &str) -> String {
    let name = wasm.file_stem().unwrap().to_str().unwrap().to_owned();
    let pushed =
        home.vyr(["push", &format!("oci:dual-{name}:v1"), wasm.to_str().unwrap(), "--fallback", image]).expect(0);
    pushed.stdout.trim().to_owned()
}

/// What `vyr run` says of a run, and what the guest wrote.
#[track_caller]
pub(crate) fn run(home: &Home, code: i32, arguments: &[&str]) -> (Value, String) {
    let report = home.work().join("report.json");
    let _ = fs::remove_file(&report);
    let report_words = ["run", "--report", report.to_str().unwrap()];
    let ran = home.vyr(report_words.into_iter().chain(arguments.iter().copied())).expect(code);
    let report = serde_json::from_slice(&fs::read(&report).expect("a report was written")).expect("it is JSON");
    (report, ran.stdout)
}
