//! Files that aren't Wasm, and Wasm that was built for something else: by which toolchain, and how to build it for here.

use std::fs;
use std::io::Write as _;

use super::{Transcript, wat};
use crate::support::{Home, Registry, tar_of, tool};

#[test]
fn it_is_not_wasm() {
    let home = Home::new();
    let hello = fs::read(vyr_guests::guest("hello-p1")).unwrap();
    home.write("notes.wasm", "hello world\n");
    home.write("hello", fs::read(tool("busybox")).unwrap());
    home.write("hello.wat", "(module (func (export \"_start\")))\n");
    home.write("hello.zip", b"PK\x03\x04\x14\0\0\0");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&hello).unwrap();
    home.write("hello.wasm.gz", gzip.finish().unwrap());
    home.write("hello.tar", tar_of(&[("hello.wasm", &hello)]));
    home.write("run.sh", "#!/bin/sh\necho hello\n");
    home.write("empty.wasm", "");
    home.write("half.wasm", &hello[..hello.len() / 2]);
    home.write("new.wasm", b"\0asm\x02\0\0\0");
    let mut seen = Transcript::new(&home, "The file isn't Wasm");
    for file in [
        "notes.wasm",
        "hello",
        "hello.wat",
        "hello.zip",
        "hello.wasm.gz",
        "hello.tar",
        "run.sh",
        "empty.wasm",
        "half.wasm",
        "new.wasm",
    ] {
        seen.vyr(&["push", "oci:artifacts:v1", file]).expect(125);
    }
    seen.is("wasm-not-wasm");
}

#[test]
fn an_artifact_holds_something_else() {
    let (registry, home) = (Registry::start(), Home::new());
    home.write("notes.wasm", "hello world\n");
    for (name, layers) in [
        ("notes", &["notes.wasm:application/wasm"][..]),
        ("file", &["notes.wasm:text/plain"]),
        ("two", &["notes.wasm:application/wasm", "other.wasm:application/wasm"]),
    ] {
        home.write("other.wasm", "other\n");
        let reference = registry.reference(name, "v1");
        home.tool("oras", [&["push", &reference][..], layers].concat()).expect(0);
    }
    let mut seen = Transcript::new(&home, "The artifact holds something else").of(&registry);
    for name in ["notes", "file", "two"] {
        seen.vyr(&["run", "--allow-unsigned", &registry.reference(name, "v1")]).expect(125);
    }
    seen.is("wasm-artifact");
}

/// The bad modules of the corpus of container images.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/oci-fallback/corpus/wasm");

/// Pushes each, by its file in the corpus or as text, and runs it: nothing starts, and what to do is said.
#[track_caller]
fn foreign(title: &str, name: &str, all: &[(&str, Option<&str>)]) {
    let home = Home::new();
    let mut seen = Transcript::new(&home, title);
    for (module, text) in all {
        let file = format!("{module}.wasm");
        let text = text.map_or_else(|| fs::read_to_string(format!("{CORPUS}/{module}.wat")).unwrap(), str::to_owned);
        wat(&home, &file, &text);
        let reference = format!("oci:artifacts:{module}");
        let pushed = home.vyr(["push", &reference, &file]).expect(0);
        let ran = seen.vyr(&["run", &reference]).expect(125).says(&["  why: ", "  next: "]);
        // What was foreseen at the push is what then happened, in the same words.
        let foreseen = pushed.stderr.strip_prefix("note: vyr can't run what is pushed: ");
        // Types are looked at when it is linked.
        if let Some(foreseen) = foreseen.filter(|_| *module != "environment-odd") {
            let of = |label| ran.stderr.lines().find_map(|line| line.strip_prefix(label)).unwrap();
            assert_eq!(foreseen.trim_end(), format!("{}; {}", of("  why: "), of("  next: ")), "{module}");
        }
    }
    seen.is(name);
}

#[test]
fn it_was_built_for_another_host() {
    foreign(
        "The Wasm was built for a browser, or for another host",
        "wasm-other-host",
        &[
            ("bindgen", None),
            (
                "bindgen-web",
                Some(
                    r#"(module (import "./app_bg.js" "__wbg_alert_1" (func (param i32 i32))) (func (export "greet")))"#,
                ),
            ),
            ("gojs", None),
            ("emscripten", None),
            ("emscripten-short", Some(r#"(module (import "a" "b" (func (param i32))) (func (export "_start")))"#)),
            (
                "assemblyscript",
                Some(r#"(module (import "env" "abort" (func (param i32 i32 i32 i32))) (func (export "_start")))"#),
            ),
            ("env", None),
            ("import-memory", Some(r#"(module (import "env" "memory" (memory 1)) (func (export "_start")))"#)),
            (
                "wasix",
                Some(r#"(module (import "wasix_32v1" "thread_sleep" (func (param i64))) (func (export "_start")))"#),
            ),
            ("sockets", None),
            ("spin", Some(r#"(component (import "fermyon:spin/key-value@2.0.0" (instance (export "open" (func)))))"#)),
            ("wasi-http", None),
            ("store-interface", None),
        ],
    );
}

#[test]
fn it_was_built_for_another_wasi() {
    foreign(
        "The Wasm was built for another version of WASI",
        "wasm-other-wasi",
        &[
            ("wasi-unstable", None),
            ("wasi-0.3", None),
            ("wasi-0.3-run", Some(r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#)),
            (
                "wasi-0.2-draft",
                Some(
                    r#"(component (import "wasi:cli/environment@0.2.0-rc-2023-11-10" (instance (export "get-arguments" (func)))))"#,
                ),
            ),
            ("wasi-threads", None),
            ("fd-write-short", None),
            ("environment-odd", None),
        ],
    );
}

#[test]
fn it_is_a_library() {
    foreign(
        "The Wasm is a library, not a program",
        "wasm-library",
        &[
            ("library", None),
            ("reactor", None),
            ("main-alone", Some(r#"(module (func (export "main") (param i32 i32) (result i32) (i32.const 0)))"#)),
            ("start-with-arguments", None),
            ("library-component", None),
            (
                "http-component",
                Some(r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#),
            ),
        ],
    );
}

#[test]
fn it_needs_what_this_runtime_has_not() {
    foreign(
        "The Wasm needs a feature that this runtime doesn't have, or is damaged",
        "wasm-feature",
        &[
            ("shared-memory", None),
            ("stack-switching", None),
            ("custom-page-sizes", None),
            ("wide-arithmetic", None),
            ("ill-typed", None),
            ("bad-segment", None),
            ("wide-table", None),
        ],
    );
}

#[test]
fn what_is_pushed_and_can_not_run_is_said_at_once() {
    let home = Home::new();
    wat(&home, "app.wasm", &fs::read_to_string(format!("{CORPUS}/bindgen.wat")).unwrap());
    wat(&home, "library.wasm", &fs::read_to_string(format!("{CORPUS}/reactor.wat")).unwrap());
    let mut seen = Transcript::new(&home, "Already at the push it is said that it can't run");
    seen.vyr(&["push", "oci:artifacts:app", "app.wasm"]).expect(0);
    seen.vyr(&["push", "oci:artifacts:library", "library.wasm"]).expect(0);
    // What runs gets no remark, a module or a component.
    for name in ["hello", "hello-p1", "net", "keyvalue", "c-hello"] {
        let wasm = vyr_guests::guest(name);
        assert_eq!(home.vyr(["push", "oci:artifacts:fine", wasm.to_str().unwrap()]).expect(0).stderr, "", "{name}");
    }
    seen.is("wasm-at-the-push");
}
