//! Mistakes in what is typed.

use super::{Transcript, push_guest, wat};
use crate::support::{Home, Registry};

#[test]
fn a_verb_a_flag_or_a_value_with_a_typo() {
    let home = Home::new();
    let mut seen = Transcript::new(&home, "A verb, a flag or a value with a typo");
    seen.vyr(&["rum", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["trust", "ad"]).expect(2);
    seen.vyr(&["run", "--memry", "64MiB", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["run", "--memory", "lots", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["run", "--timeout", "5", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["run", "--env", "MODE", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["run", "--allow-net", "api.example", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["tasks", "--output", "jsn"]).expect(2);
    seen.vyr(&["serve", "--listen", "7070"]).expect(2);
    seen.is("words-typo");
}

#[test]
fn arguments_of_the_guest_without_the_dashes_before_them() {
    let home = Home::new();
    let mut seen = Transcript::new(&home, "Arguments of the guest without `--` before them");
    seen.vyr(&["run", "localhost:5000/hello:v1", "one", "two"]).expect(2);
    seen.vyr(&["run", "localhost:5000/hello:v1", "--name", "x"]).expect(2);
    seen.is("words-arguments");
}

#[test]
fn a_reference_that_is_none() {
    let home = Home::new();
    let mut seen = Transcript::new(&home, "A reference that is none");
    for reference in [
        "localhost:5000/Hello:v1",
        "https://localhost:5000/hello:v1",
        "localhost:5000/hello:v 1",
        "localhost:5000/hello@sha256:99d0c0ba4c31",
        "localhost:5000/hello@sha256:99d0c0ba4c31d2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6fg",
        "./artifacts/hello",
    ] {
        seen.vyr(&["run", reference]).expect(2);
    }
    seen.is("words-reference");
}

#[test]
fn a_file_in_place_of_an_artifact() {
    let home = Home::new();
    wat(&home, "hello.wasm", r#"(module (func (export "_start")))"#);
    let mut seen = Transcript::new(&home, "A file in place of an artifact");
    seen.vyr(&["run", "hello.wasm"]).expect(2);
    seen.vyr(&["run", "./hello.wasm"]).expect(2);
    seen.vyr(&["push", "hello.wasm", "localhost:5000/hello:v1"]).expect(2);
    seen.vyr(&["push", "localhost:5000/hello:v1", "target/hello.wasm"]).expect(2);
    seen.vyr(&["push", "localhost:5000/hello:v1", "."]).expect(2);
    seen.is("words-file");
}

#[test]
fn a_name_without_a_host_leads_to_docker_hub() {
    let home = Home::new();
    let mut seen = Transcript::new(&home, "A name without a host");
    // Whatever Docker Hub or the lack of a network says of it, it is said whose name that is.
    let said = seen.vyr(&["run", "--offline", "hello"]).expect(127);
    said.says(&["docker.io/library/hello:latest"]);
    let mut command = home.vyr_command(["run", "hello"]);
    command.env("HTTPS_PROXY", "http://127.0.0.1:1");
    let output = crate::support::run(command, b"");
    output.expect(125).says(&["a reference without a host is on Docker Hub"]);
    seen.is("words-without-a-host");
}

#[test]
fn for_programs_a_mistake_is_a_document_too() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = push_guest(&home, &registry, "hello-p1");
    let mut seen = Transcript::new(&home, "With `--output json`").of(&registry);
    seen.vyr(&["rum", "--output", "json"]).expect(2);
    seen.vyr(&["run", "--output", "json", "--memory", "lots", &reference]).expect(2);
    seen.vyr(&["run", "--output", "json", &registry.reference("hello", "v2")]).expect(127);
    let said = home.vyr(["run", &reference, "--", "--output", "json"]).expect(0);
    assert_eq!(said.stdout, "hello from wasm\n--output\njson\n");
    let text = home.vyr(["run", &reference, "one", "--", "--output", "json"]).expect(2).stderr;
    assert!(text.starts_with("error: unexpected argument"), "what is the guest's says nothing of the format: {text}");
    seen.is("words-json");
}
