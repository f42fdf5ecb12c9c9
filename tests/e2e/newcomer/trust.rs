//! What isn't signed, by nobody who is trusted, or isn't what was signed.

use std::fs;

use super::{Transcript, push_guest};
use crate::support::{Home, Registry, flip_a_bit};

#[test]
fn nobody_signed_it() {
    let (registry, home) = (Registry::start(), Home::new());
    home.oras_push(&registry.reference("hello", "v1"), &vyr_guests::guest("hello-p1"));
    let mut seen = Transcript::new(&home, "Nobody signed it").of(&registry);
    seen.vyr(&["run", &registry.reference("hello", "v1")]).expect(126);
    seen.vyr(&["run", "--allow-unsigned", &registry.reference("hello", "v1")]).expect(0);
    seen.is("trust-unsigned");
}

#[test]
fn somebody_signed_it_who_is_not_trusted() {
    let (registry, publisher, home) = (Registry::start(), Home::new(), Home::new());
    let reference = push_guest(&publisher, &registry, "hello-p1");
    let mut seen = Transcript::new(&home, "Somebody signed it who isn't trusted").of(&registry);
    seen.vyr(&["run", &reference]).expect(126);
    fs::copy(publisher.machine_key().public, home.work().join("theirs.pub")).unwrap();
    seen.vyr(&["trust", "add", "--key", "theirs.pub"]).expect(0);
    seen.vyr(&["run", &reference]).expect(0);
    seen.is("trust-untrusted");
}

#[test]
fn what_comes_is_not_what_was_signed() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reader, reference) = (Home::new(), push_guest(&home, &registry, "hello-p1"));
    let manifest = home.crane_digest(&reference);
    let text = fs::read_to_string(registry.blob(&manifest)).unwrap();
    let layer =
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    flip_a_bit(&registry.blob(&layer));
    reader.trust(&home.machine_key());
    let mut seen = Transcript::new(&reader, "One bit of it was changed in the registry").of(&registry);
    let said = seen.vyr(&["run", &reference]).expect(126);
    assert_eq!(said.stdout, "");
    seen.is("trust-altered");
}

#[test]
fn a_rule_says_no() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = push_guest(&home, &registry, "hello-p1");
    fs::write(home.vyr_home().join("trust.toml"), "version = 1\n\n[[rule]]\nrepository = \"\"\naction = \"reject\"\n")
        .unwrap();
    let mut seen = Transcript::new(&home, "A rule of the trust policy says no").of(&registry);
    seen.vyr(&["run", &reference]).expect(126);
    fs::write(home.vyr_home().join("trust.toml"), "version = 1\n\n[[rule]\n").unwrap();
    seen.vyr(&["run", &reference]).expect(126);
    seen.is("trust-rule");
}

#[test]
fn a_key_is_not_one() {
    let home = Home::new();
    home.vyr(["keygen", "mine"]).expect(0);
    home.write("notes.txt", "not a key\n");
    home.write("hello.wasm", wat::parse_str(r#"(module (func (export "_start")))"#).unwrap());
    let mut seen = Transcript::new(&home, "A key that isn't one");
    seen.vyr(&["trust", "add", "--key", "nowhere.pub"]).expect(2);
    seen.vyr(&["trust", "add", "--key", "notes.txt"]).expect(2);
    seen.vyr(&["trust", "add", "--key", "mine.key"]).expect(2);
    seen.vyr(&["push", "--sign-key", "mine.pub", "oci:artifacts:v1", "hello.wasm"]).expect(2);
    seen.vyr(&["push", "--sign-key", "nowhere.key", "oci:artifacts:v1", "hello.wasm"]).expect(2);
    let mut other = home.vyr_command(["push", "--sign-key", "mine.key", "oci:artifacts:v1", "hello.wasm"]);
    other.env("VYR_KEY_PASSWORD", "guessed");
    let shown = "VYR_KEY_PASSWORD=guessed vyr push --sign-key mine.key oci:artifacts:v1 hello.wasm";
    seen.ran(shown, other, b"").expect(2);
    seen.is("trust-key");
}
