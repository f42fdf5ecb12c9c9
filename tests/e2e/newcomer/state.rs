//! States that aren't there, are full or in use.

use std::process::Stdio;

use super::{Transcript, push_guest};
use crate::support::{Home, Registry};

#[test]
fn it_is_not_there_or_there_already() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = push_guest(&home, &registry, "hello-p1");
    home.vyr(["state", "create", "readings"]).expect(0);
    let mut seen = Transcript::new(&home, "A state that isn't there, or is there already").of(&registry);
    seen.vyr(&["run", "--state", "reading", &hello]).expect(127);
    seen.vyr(&["state", "show", "reading"]).expect(127);
    seen.vyr(&["state", "create", "readings"]).expect(125);
    seen.vyr(&["state", "create", "Readings"]).expect(2);
    seen.vyr(&["state", "sync", "readings"]).expect(2);
    seen.is("state-no-such");
}

#[test]
fn it_is_full() {
    let (registry, home) = (Registry::start(), Home::new());
    let state = push_guest(&home, &registry, "state");
    home.vyr(["state", "create", "readings", "--quota", "64KiB"]).expect(0);
    let mut seen = Transcript::new(&home, "A state that is full").of(&registry);
    seen.vyr(&["run", "--state", "readings", &state, "--", "write:/state/readings/a:100000", "exit:1"]).expect(1);
    seen.is("state-full");
}

#[test]
fn somebody_writes_to_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (push_guest(&home, &registry, "sleep-p1"), push_guest(&home, &registry, "hello-p1"));
    home.vyr(["state", "create", "readings"]).expect(0);
    let mut writer = home.vyr_command(["run", "--state", "readings", &sleep]);
    let mut writer = writer.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.take().unwrap()), &mut line).unwrap();
    let mut seen = Transcript::new(&home, "A state that another writes to").of(&registry);
    let said = seen.vyr(&["run", "--state", "readings=readings:refuse", &hello]);
    let removed = seen.vyr(&["state", "rm", "readings"]);
    writer.kill().unwrap();
    writer.wait().unwrap();
    said.expect(125);
    removed.expect(125);
    seen.is("state-busy");
}
