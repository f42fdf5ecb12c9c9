//! Real guests at the folder door, as a module and as a component: to the byte, and nothing but by the rules.

use std::fs;
use std::sync::Arc;

use super::super::{CancellationToken, Engine, EngineOptions, Execution, Outcome, Output, RunSpec, StateDoor};
use super::*;
use crate::state::{Mode, NewState, OnBusy, State, StateKind, States};

struct House {
    _home: tempfile::TempDir,
    states: States,
    engine: Engine,
}

async fn house() -> House {
    let home = tempfile::tempdir().unwrap();
    let states = States::open(home.path()).await.unwrap();
    House { _home: home, states, engine: Engine::new(&EngineOptions::default()).unwrap() }
}

impl House {
    async fn state(&self, name: &str, class: StateClass, quota: u64) -> State {
        let target = (class == StateClass::Synced).then(|| "localhost:1/x".to_owned());
        let (name, kind) = (name.parse().unwrap(), StateKind::Files);
        let new = NewState { name, class, kind, quota_bytes: quota, time_to_live: None, target };
        self.states.create(new).await.unwrap()
    }

    async fn bind(&self, state: &State, mode: Mode) -> Arc<StateHandle> {
        self.states.attach(state, "test", mode, OnBusy::Refuse).await.unwrap()
    }

    async fn run(&self, guest: &str, bound: &[(&str, &Arc<StateHandle>)], steps: &[&str]) -> (String, Execution) {
        let wasm = fs::read(vyr_guests::guest(guest)).unwrap();
        let prepared = self.engine.prepare(&self.engine.compile_in_memory(guest, &wasm).unwrap()).unwrap();
        let (stdout, said) = Output::capture(1 << 20);
        let states = bound
            .iter()
            .map(|(alias, handle)| StateDoor { alias: (*alias).to_owned(), handle: Arc::clone(handle) })
            .collect();
        let args = steps.iter().map(|step| (*step).to_owned()).collect();
        let spec = RunSpec { argv0: "state".into(), args, states, stdout, ..RunSpec::default() };
        let execution = self.engine.run(&prepared, spec, &CancellationToken::new()).await.unwrap();
        (String::from_utf8(said.contents().to_vec()).unwrap(), execution)
    }
}

const GUESTS: [&str; 2] = ["state-p1", "state"];

/// What is counted is what is there.
fn same(handle: &StateHandle) {
    let (mut bytes, mut entries, mut folders) = (0, 0, vec![handle.data().to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            let found = item.metadata().unwrap();
            entries += 1;
            if found.is_dir() {
                folders.push(item.path());
            } else {
                bytes += found.len();
            }
        }
    }
    assert_eq!((handle.usage().bytes(), handle.usage().entries()), (bytes, entries));
}

fn verdicts(said: &str) -> Vec<&str> {
    said.lines().map(|line| line.split(' ').nth(1).unwrap()).collect()
}

#[tokio::test]
async fn a_state_takes_its_quota_and_not_a_byte_more() {
    let house = house().await;
    for guest in GUESTS {
        let state = house.state(&format!("q-{guest}"), StateClass::Node, 10_000).await;
        let handle = house.bind(&state, Mode::ReadWrite).await;
        let bound = [("s", &handle)];
        let (said, _) = house.run(guest, &bound, &["write:/state/s/a:10000", "append:/state/s/a:1"]).await;
        assert_eq!(verdicts(&said), ["ok", "denied"], "{guest}: {said}");
        // The C library of components makes EIO of whatever a stream fails with, a full disk included.
        let code = if guest == "state" { "os error 29" } else { "os error 51" };
        assert!(said.contains(code), "{said}");
        assert_eq!(fs::metadata(handle.data().join("a")).unwrap().len(), 10_000);
        same(&handle);
        let steps = [
            // In place there is always room.
            "at:/state/s/a:9000:1000",
            "at:/state/s/a:9001:1000",
            "len:/state/s/a:4000",
            "len:/state/s/a:10001",
            "len:/state/s/a:9999",
            "text:/state/s/b:y",
            "text:/state/s/c:z",
            "rm:/state/s/b",
            "at:/state/s/d:0:1",
            "rm:/state/s/a",
            // A hole counts as what it looks like.
            "at:/state/s/e:9998:1",
            "at:/state/s/e:9999:1",
        ];
        let (said, _) = house.run(guest, &bound, &steps).await;
        let expected = ["ok", "denied", "ok", "denied", "ok", "ok", "denied", "ok", "ok", "ok", "ok", "denied"];
        assert_eq!(verdicts(&said), expected, "{guest}: {said}");
        same(&handle);
        assert_eq!(handle.usage().bytes(), 10_000);
    }
}

#[tokio::test]
async fn what_goes_gives_its_room_back() {
    let house = house().await;
    for guest in GUESTS {
        let state = house.state(&format!("g-{guest}"), StateClass::Node, 10_000).await;
        let handle = house.bind(&state, Mode::ReadWrite).await;
        let steps = [
            "mkdir:/state/s/d",
            "write:/state/s/d/a:6000",
            "write:/state/s/d/a:6000",
            "write:/state/s/b:3000",
            "mv:/state/s/b:/state/s/d/a",
            "write:/state/s/b:7000",
            "mv:/state/s/d:/state/s/e",
            "append:/state/s/e/a:1",
            "rm:/state/s/e/a",
            "rmdir:/state/s/e",
            // Removed while it is open: it takes room until it is closed, which is at the end here.
            "hold:/state/s/h:3000",
            "rm:/state/s/h",
            "append:/state/s/b:1",
        ];
        let (said, _) = house.run(guest, &[("s", &handle)], &steps).await;
        let expected = ["ok", "ok", "ok", "ok", "ok", "ok", "ok", "denied", "ok", "ok", "ok", "ok", "denied"];
        assert_eq!(verdicts(&said), expected, "{guest}: {said}");
        same(&handle);
        assert_eq!(handle.usage().bytes(), 7000);
    }
}

#[tokio::test]
async fn a_state_has_no_links_and_is_a_device_of_its_own() {
    let house = house().await;
    for guest in GUESTS {
        let one = house.state(&format!("l-{guest}"), StateClass::Node, 1000).await;
        let two = house.state(&format!("m-{guest}"), StateClass::Node, 1000).await;
        let (one, two) = (house.bind(&one, Mode::ReadWrite).await, house.bind(&two, Mode::ReadOnly).await);
        fs::write(two.data().join("x"), b"to be read").unwrap();
        let steps = [
            "text:/state/a/x:1",
            "ln:/state/a/x:/state/a/y",
            "mv:/state/a/x:/state/b/y",
            "mv:/state/b/x:/state/a/y",
            "text:/state/b/z:1",
            "rm:/state/b/x",
            "read:/state/b/x",
            "text:/state/a/../../x:1",
            "text:/state/c:1",
        ];
        let (said, _) = house.run(guest, &[("a", &one), ("b", &two)], &steps).await;
        let expected = ["ok", "denied", "denied", "denied", "denied", "denied", "ok", "denied", "denied"];
        assert_eq!(verdicts(&said), expected, "{guest}: {said}");
        assert!(said.contains("read ok to be read"), "{said}");
        same(&one);
    }
}

#[tokio::test]
async fn many_names_are_bounded_as_bytes_are() {
    let house = house().await;
    let state = house.state("names", StateClass::Node, 1000).await;
    let handle = house.bind(&state, Mode::ReadWrite).await;
    for _ in 0..65_535 {
        handle.usage().add_entry().unwrap();
    }
    let steps = ["text:/state/s/a:", "text:/state/s/b:", "mkdir:/state/s/d", "rm:/state/s/a", "mkdir:/state/s/d"];
    let (said, _) = house.run("state-p1", &[("s", &handle)], &steps).await;
    assert_eq!(verdicts(&said), ["ok", "denied", "denied", "ok", "ok"], "{said}");
}

#[tokio::test]
async fn one_that_was_cut_short_is_counted_as_it_is() {
    let house = house().await;
    for guest in GUESTS {
        let state = house.state(&format!("c-{guest}"), StateClass::Node, 10_000).await;
        let handle = house.bind(&state, Mode::ReadWrite).await;
        let (said, execution) = house.run(guest, &[("s", &handle)], &["hold:/state/s/a:5000", "trap"]).await;
        assert!(matches!(execution.outcome, Outcome::Trapped(_)), "{said}");
        same(&handle);
    }
}

#[test]
fn paths_are_seen_from_the_state() {
    assert_eq!(join("", "a/./b//c/").as_deref(), Some("a/b/c"));
    assert_eq!(join("a/b", "../c").as_deref(), Some("a/c"));
    assert_eq!(join("a", "..").as_deref(), Some(""));
    assert_eq!(join("a", "../.."), None);
    assert_eq!(join("", "../x"), None);
}
