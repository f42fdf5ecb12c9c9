//! A component that uses `wasi:keyvalue`, on states in a temporary folder.

use crate::engine::{
    CancellationToken, Engine, EngineOptions, Limits, Outcome, Output, Prepared, RunSpec, StartError, StateDoor,
};
use crate::state::{Mode, NewState, OnBusy, State, StateClass, StateHandle, StateKind, States};
use std::sync::Arc;
use std::time::Duration;

struct Bench {
    _home: tempfile::TempDir,
    states: States,
    engine: Engine,
    guest: Prepared,
}

async fn bench() -> Bench {
    let home = tempfile::tempdir().unwrap();
    let states = States::open(home.path()).await.unwrap();
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let wasm = std::fs::read(vyr_guests::guest("keyvalue")).unwrap();
    let guest = engine.prepare(&engine.compile_in_memory("keyvalue", &wasm).unwrap()).unwrap();
    Bench { _home: home, states, engine, guest }
}

impl Bench {
    async fn create(&self, name: &str, kind: StateKind, quota_bytes: u64) -> State {
        let new = NewState {
            name: name.parse().unwrap(),
            class: StateClass::Node,
            kind,
            quota_bytes,
            time_to_live: None,
            target: None,
        };
        self.states.create(new).await.unwrap()
    }

    async fn attach(&self, state: &State, mode: Mode) -> Arc<StateHandle> {
        self.states.attach(state, "t", mode, OnBusy::Refuse).await.unwrap()
    }

    /// Its code, what it wrote to stdout, and what to stderr.
    async fn run(&self, handle: &Arc<StateHandle>, args: &[&str]) -> (i32, String, String) {
        let ((stdout, out), (stderr, err)) = (Output::capture(1 << 20), Output::capture(1 << 20));
        let spec = RunSpec {
            argv0: "keyvalue".into(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            states: vec![StateDoor { alias: "data".into(), handle: Arc::clone(handle) }],
            stdout,
            stderr,
            ..RunSpec::default()
        };
        let ended = self.engine.run(&self.guest, spec, &CancellationToken::new()).await.unwrap();
        let Outcome::Exited(code) = ended.outcome else { panic!("{}", ended.outcome) };
        let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        (code, text(out.contents()), text(err.contents()))
    }

    async fn says(&self, handle: &Arc<StateHandle>, args: &[&str]) -> String {
        let (code, out, err) = self.run(handle, args).await;
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    }

    async fn fails(&self, handle: &Arc<StateHandle>, args: &[&str]) -> String {
        let (code, out, err) = self.run(handle, args).await;
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        err.trim_end().to_owned()
    }
}

#[tokio::test]
async fn a_component_sets_gets_lists_and_swaps() {
    let bench = bench().await;
    let state = bench.create("s", StateKind::Kv, 1 << 20).await;
    let handle = bench.attach(&state, Mode::ReadWrite).await;
    bench.says(&handle, &["data", "set", "a/b", "1"]).await;
    assert_eq!(bench.says(&handle, &["data", "get", "a/b"]).await, "1\n", "another guest sees it");
    assert_eq!(bench.says(&handle, &["data", "get", "none"]).await, "(none)\n");
    assert_eq!(bench.says(&handle, &["data", "exists", "a/b"]).await, "true\n");
    assert_eq!(bench.says(&handle, &["data", "incr", "n", "5"]).await, "5\n");
    assert_eq!(bench.says(&handle, &["data", "incr", "n", "-7"]).await, "-2\n");
    assert_eq!(bench.fails(&handle, &["data", "incr", "a", "x"]).await, "x: invalid digit found in string");
    assert_eq!(bench.says(&handle, &["data", "cas", "n", "3"]).await, "-2\n");
    assert_eq!(bench.says(&handle, &["data", "cas-late", "n", "4", "5"]).await, "4\n");
    assert_eq!(bench.says(&handle, &["data", "get", "n"]).await, "5\n");
    bench.says(&handle, &["data", "set-many", "x=1", "y=2"]).await;
    assert_eq!(bench.says(&handle, &["data", "get-many", "x", "none", "y"]).await, "x=1\n(none)\ny=2\n");
    assert_eq!(bench.says(&handle, &["data", "list"]).await, "a/b\nn\nx\ny\n");
    bench.says(&handle, &["data", "delete-many", "x", "y", "none"]).await;
    bench.says(&handle, &["data", "delete", "a/b"]).await;
    assert_eq!(bench.says(&handle, &["data", "list"]).await, "n\n");

    bench.says(&handle, &["data", "fill", "5000"]).await;
    bench.says(&handle, &["data", "check", "5000"]).await;
    let listed = bench.says(&handle, &["data", "list"]).await;
    let mut expected: Vec<String> = (0..5000).map(|n| format!("k{n}")).chain(["n".into()]).collect();
    expected.sort();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "over several pages");

    handle.settle().unwrap();
    assert_eq!(std::fs::read(handle.data().join("k4999")).unwrap(), b"4999");
    std::fs::write(handle.data().join("file"), "by a module").unwrap();
    assert_eq!(bench.says(&handle, &["data", "get", "file"]).await, "by a module\n");
    let released = handle.release().unwrap();
    assert!(handle.release().unwrap().is_none());
    let again = bench.attach(&state, Mode::ReadWrite).await;
    assert_eq!(released, Some(again.usage().bytes()), "as the release noted it");
    bench.says(&again, &["data", "check", "5000"]).await;
}

#[tokio::test]
async fn what_is_not_allowed_is_an_error_and_no_trap() {
    let bench = bench().await;
    let state = bench.create("s", StateKind::Kv, 1000).await;
    let handle = bench.attach(&state, Mode::ReadWrite).await;
    assert_eq!(bench.fails(&handle, &["other", "list"]).await, "no-such-store");
    let files = bench.create("files", StateKind::Files, 1000).await;
    let files = bench.attach(&files, Mode::ReadWrite).await;
    assert_eq!(bench.fails(&files, &["data", "list"]).await, "no-such-store");
    assert!(files.kv().is_err());

    assert!(bench.says(&handle, &["data", "quota", "100"]).await.starts_with("10 other: the state's quota"));
    assert_eq!((handle.usage().bytes(), handle.usage().entries()), (1000, 10));
    assert!(bench.fails(&handle, &["data", "set", "one", "x"]).await.contains("quota"));
    assert!(bench.fails(&handle, &["data", "set", "", ""]).await.contains("empty"));
    assert!(bench.fails(&handle, &["data", "get", &"x".repeat(256)]).await.contains("255"));
    assert!(bench.fails(&handle, &["data", "incr", "q0", "1"]).await.contains("number"));
    assert_eq!(bench.says(&handle, &["data", "open-many", "900"]).await, "900\n");
    assert!(bench.fails(&handle, &["data", "open-many", "1000"]).await.contains("1000 buckets"));
    let many: Vec<String> = (0..10_001).map(|n| format!("m{n}=")).collect();
    let mut args = vec!["data", "set-many"];
    args.extend(many.iter().map(String::as_str));
    assert!(bench.fails(&handle, &args).await.contains("10000 keys"));

    let reader = bench.attach(&state, Mode::ReadOnly).await;
    assert_eq!(bench.says(&reader, &["data", "exists", "q9"]).await, "true\n", "before it is a file");
    for args in [
        &["data", "set", "q0", "x"][..],
        &["data", "delete", "q0"],
        &["data", "incr", "n", "1"],
        &["data", "set-many", "q0=x"],
    ] {
        assert_eq!(bench.fails(&reader, args).await, "access-denied");
    }
    let (code, out, err) = bench.run(&reader, &["data", "cas", "none", "x"]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "(none)\n", "access-denied\n"));
    handle.release().unwrap();
    assert!(bench.fails(&handle, &["data", "list"]).await.contains("no longer bound"));
    assert_eq!(bench.says(&reader, &["data", "exists", "q9"]).await, "true\n");
}

#[tokio::test]
async fn a_guest_that_is_ended_leaves_what_it_was_told() {
    let bench = bench().await;
    let state = bench.create("s", StateKind::Kv, 64 << 20).await;
    let handle = bench.attach(&state, Mode::ReadWrite).await;
    let (stdout, out) = Output::capture(16 << 20);
    let spec = RunSpec {
        argv0: "keyvalue".into(),
        args: ["data", "acknowledge", "100000000"].map(str::to_owned).into(),
        states: vec![StateDoor { alias: "data".into(), handle: Arc::clone(&handle) }],
        stdout,
        limits: Limits { wall: Some(Duration::from_millis(300)), ..Limits::default() },
        ..RunSpec::default()
    };
    let ended = bench.engine.run(&bench.guest, spec, &CancellationToken::new()).await.unwrap();
    assert!(matches!(ended.outcome, Outcome::TimedOut(_)), "{}", ended.outcome);
    drop(handle);
    let text = String::from_utf8(out.contents().to_vec()).unwrap();
    let told = text.lines().count().to_string();
    let handle = bench.attach(&state, Mode::ReadWrite).await;
    assert!(told != "0");
    bench.says(&handle, &["data", "check", &told]).await;
    let keys = handle.kv().unwrap().keys(None, 1 << 20).unwrap();
    assert_eq!(handle.usage().entries(), keys.len() as u64);
}

#[test]
fn another_version_is_named() {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let import = |interface: &str| {
        let wat = format!(r#"(component (import "{interface}" (instance (export "f" (func)))))"#);
        let compiled = engine.compile_in_memory("test", &wat::parse_str(wat).unwrap()).unwrap();
        engine.prepare(&compiled).unwrap_err()
    };
    let other = import("wasi:keyvalue/store@0.2.0-draft");
    assert!(matches!(&other, StartError::UnknownImport { name: None, .. }), "{other:?}");
    assert!(other.hint().contains("0.2.0-draft2"));
    let missing = import("wasi:keyvalue/store@0.2.0-draft2");
    assert!(matches!(&missing, StartError::UnknownImport { name: Some(name), .. } if name == "f"), "{missing:?}");
}
