//! A state as users meet it: made, bound, written, read from outside, removed.

use std::fs;

use crate::support::{Home, Registry, pushed};

#[test]
fn a_state_outlives_the_run_that_wrote_it_with_no_node_at_all() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state");
    assert_eq!(home.vyr(["state", "create", "readings", "--quota", "1KiB"]).expect(0).stdout, "readings\n");
    let steps = ["mkdir:/state/data/day", "text:/state/data/day/one:first", "write:/state/data/day/two:1020"];
    let ran = home.vyr(["run", "--state", "data=readings", &guest, "--"].into_iter().chain(steps)).expect(0);
    // 5 bytes and 1019 more are the quota; one is too many.
    assert_eq!(ran.stdout.lines().map(|l| l.split(' ').nth(1).unwrap()).collect::<Vec<_>>(), ["ok", "ok", "denied"]);
    let steps = ["read:/state/readings/day/one", "text:/state/readings/x:1", "ls:/state/readings/day"];
    let ran = home.vyr(["run", "--state", "readings=readings:ro", &guest, "--"].into_iter().chain(steps)).expect(0);
    assert_eq!(ran.stdout.lines().next(), Some("read ok first"));
    assert!(ran.stdout.contains("text denied") && ran.stdout.contains("ls ok one two"), "{}", ran.stdout);

    // From outside.
    assert_eq!(home.vyr(["state", "get", "readings", "day/one"]).expect(0).stdout, "first");
    home.vyr(["state", "get", "readings", "day/three"]).expect(127).says(&["has no file", "vyr state show"]);
    home.vyr(["state", "get", "readings", "../../keys/machine.key"]).expect(2);
    let shown = home.vyr(["state", "show", "readings", "--output", "json"]).expect(0).json();
    assert_eq!((shown["class"].as_str(), shown["quota_bytes"].as_u64()), (Some("node"), Some(1024)));
    let held = shown["used_bytes"].as_u64().unwrap();
    let files = shown["files"].as_array().unwrap();
    assert_eq!(files.iter().map(|f| f["size"].as_u64().unwrap()).sum::<u64>(), held);
    home.vyr(["state", "export", "readings", "copy"]).expect(0);
    assert_eq!(fs::read(home.work().join("copy/day/one")).unwrap(), b"first");
    home.vyr(["state", "export", "readings", "copy"]).expect(2).says(&["not empty"]);
    let listed = home.vyr(["state", "ls"]).expect(0);
    assert!(listed.stdout.contains("readings") && listed.stdout.contains("node"), "{}", listed.stdout);

    home.vyr(["state", "rm", "readings"]).expect(0);
    home.vyr(["state", "show", "readings"]).expect(127).says(&["there is no state `readings`"]);
    home.vyr(["run", "--state", "data=readings", &guest]).expect(127);
}

#[test]
fn what_can_not_be_is_refused_in_words() {
    let home = Home::new();
    home.vyr(["state", "create", "a"]).expect(0);
    home.vyr(["state", "create", "a"]).expect(125).says(&["there is a state `a` already"]);
    for name in ["A", "", "../x", "a/b"] {
        home.vyr(["state", "create", name]).expect(2);
    }
    home.vyr(["state", "create", "b", "--class", "synced"]).expect(2).says(&["needs a repository"]);
    home.vyr(["state", "create", "b", "--sync", "localhost:1/x:tag"]).expect(2).says(&["without tag"]);
    home.vyr(["state", "create", "b", "--class", "node", "--sync", "localhost:1/x"]).expect(2);
    home.vyr(["state", "bind", "nobody", "localhost:1/x"]).expect(127);
    home.vyr(["state", "bind", "a", "not a reference"]).expect(2);
    home.vyr(["state", "rm", "nobody"]).expect(127);
    home.vyr(["run", "--state", "x=a:sometimes", "localhost:1/x"]).expect(2);
    home.vyr(["run", "--state", "x=a", "--state", "x=a:ro", "localhost:1/x"])
        .expect(2)
        .says(&["two states are to be `x`"]);
}

fn until_its_time_is_over(home: &Home, state: &str) {
    while home.vyr(["state", "show", state]).status == 0 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_state_goes_when_its_time_is_over() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    home.vyr(["state", "create", "brief", "--ttl", "10s"]).expect(0);
    home.vyr(["run", "--state", "brief", &guest, "--", "text:/state/brief/x:1"]).expect(0);
    let folders =
        || fs::read_dir(home.vyr_home().join("state")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders(), 1);
    until_its_time_is_over(&home, "brief");
    home.vyr(["run", "--state", "brief", &guest]).expect(127);
    // Its name is free, and making another one takes the first one's data away.
    home.vyr(["state", "create", "brief"]).expect(0);
    assert_eq!(folders(), 1);
    let ran = home.vyr(["run", "--state", "brief", &guest, "--", "ls:/state/brief"]).expect(0);
    assert_eq!(ran.stdout, "ls ok \n");
}

#[test]
fn a_state_whose_time_is_over_is_not_bound_by_the_artifact_and_a_synced_one_keeps_what_it_owes() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let (repository, _) = guest.split_once(":v1@").unwrap();
    // Made first, it is over when the other one is.
    home.vyr(["state", "create", "owes", "--ttl", "10s", "--sync", "localhost:1/readings"]).expect(0);
    home.vyr(["state", "create", "bound", "--ttl", "10s"]).expect(0);
    home.vyr(["state", "bind", "bound", repository, "--as", "data"]).expect(0);
    let does = ["mkdir:/state/owes/outbox", "text:/state/owes/outbox/x:1", "text:/state/data/x:1"];
    let ran = home.vyr(["run", "--state", "owes", &guest, "--"].iter().chain(&does).copied());
    assert_eq!(ran.expect(0).stdout, "mkdir ok \ntext ok \ntext ok \n");
    until_its_time_is_over(&home, "bound");
    home.vyr(["run", "--state", "owes", &guest]).expect(127);
    let ran = home.vyr(["run", &guest, "--", "read:/state/data/x"]).expect(0);
    assert!(!ran.stdout.contains("read ok"), "{}", ran.stdout);
    // What makes room takes the one and not the other, whose record is nowhere else.
    home.vyr(["state", "create", "new"]).expect(0);
    let folders = fs::read_dir(home.vyr_home().join("state")).unwrap();
    assert_eq!(folders.filter(|e| e.as_ref().unwrap().path().is_dir()).count(), 2);
    assert!(home.vyr(["state", "ls"]).expect(0).stdout.contains("owes"));
    assert!(home.vyr(["state", "show", "owes"]).expect(0).stdout.contains("1 pending"));
    home.vyr(["state", "rm", "owes"]).expect(0);
    home.vyr(["state", "create", "owes"]).expect(0);
}

#[test]
fn every_run_of_an_artifact_gets_what_is_bound_to_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state");
    let (repository, _) = guest.split_once(":v1@").unwrap();
    home.vyr(["state", "create", "common"]).expect(0);
    home.vyr(["state", "create", "other"]).expect(0);
    home.vyr(["state", "bind", "common", repository, "--as", "data"]).expect(0);
    home.vyr(["run", &guest, "--", "text:/state/data/x:by-the-artifact"]).expect(0);
    assert_eq!(home.vyr(["state", "get", "common", "x"]).expect(0).stdout, "by-the-artifact");
    // What a run asks for goes first.
    home.vyr(["run", "--state", "data=other", &guest, "--", "text:/state/data/x:by-the-run"]).expect(0);
    assert_eq!(home.vyr(["state", "get", "other", "x"]).expect(0).stdout, "by-the-run");
    // The digest is nearer than the repository.
    home.vyr(["state", "bind", "other", &guest, "--as", "data", "--read-only"]).expect(0);
    let ran = home.vyr(["run", &guest, "--", "read:/state/data/x", "text:/state/data/y:1"]).expect(0);
    assert!(ran.stdout.starts_with("read ok by-the-run\ntext denied"), "{}", ran.stdout);
    let shown = home.vyr(["state", "show", "other"]).expect(0);
    assert!(shown.stdout.contains("bound to") && shown.stdout.contains("(read-only)"), "{}", shown.stdout);
}
