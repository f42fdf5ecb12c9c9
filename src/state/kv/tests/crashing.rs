//! Killed at any moment: what was acknowledged is there, what wasn't is there whole or not at all.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::state::{Mode, NewState, OnBusy, State, StateClass, StateKind, States};

use super::writer;

const MARKER: &str = "to-be-killed";

/// What step `n` does: the key, and its value afterwards.
fn step(n: u64) -> (String, Option<Vec<u8>>) {
    let length = usize::try_from(n * 7919 % 3000).unwrap();
    let value = (!n.is_multiple_of(5)).then(|| format!("{n}:{}", "v".repeat(length)).into_bytes());
    (format!("key/{}", n % 37), value)
}

async fn state(states: &States) -> State {
    match states.get("kv").await {
        Ok(state) => state,
        Err(_) => {
            let new = NewState {
                name: "kv".parse().unwrap(),
                class: StateClass::Node,
                kind: StateKind::Kv,
                quota_bytes: 1 << 20,
                time_to_live: None,
                target: None,
            };
            states.create(new).await.unwrap()
        }
    }
}

fn acknowledged(home: &Path) -> u64 {
    let text = std::fs::read_to_string(home.join("acknowledged")).unwrap_or_default();
    text.lines().last().map_or(0, |line| line.parse().unwrap())
}

/// The killed side: its home folder is its working folder, and it writes down what was acknowledged.
#[tokio::test]
#[ignore = "runs until it's killed; the tests below start it"]
async fn victim() {
    let home = Path::new(".");
    if !home.join(MARKER).exists() {
        return;
    }
    let states = States::open(home).await.unwrap();
    let state = state(&states).await;
    let mut told = OpenOptions::new().create(true).append(true).open("acknowledged").unwrap();
    let mut n = acknowledged(home);
    loop {
        let handle = states.attach(&state, "t", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
        let keys = handle.kv().unwrap();
        for _ in 0..2000 {
            n += 1;
            match step(n) {
                (key, Some(value)) => keys.set(&key, value).unwrap(),
                (key, None) => keys.delete(&key).unwrap(),
            }
            // One write: between two of them there is room for the kill, and half a line that the next victim ends.
            told.write_all(format!("{n}\n").as_bytes()).unwrap();
            match n % 400 {
                100 => handle.settle().unwrap(),
                300 => writer(&keys).checkpoint().unwrap(),
                _ => {}
            }
        }
        if n.is_multiple_of(3) {
            handle.release().unwrap();
        }
    }
}

#[tokio::test]
async fn killed_at_any_moment_nothing_acknowledged_is_gone() {
    kill_and_look(10).await;
}

#[tokio::test]
#[ignore = "takes half a minute; `./test` runs it by itself"]
async fn killed_at_one_hundred_and_twenty_moments() {
    kill_and_look(120).await;
}

async fn kill_and_look(times: u64) {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(MARKER), b"").unwrap();
    for round in 0..times {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::kv::tests::crashing::victim", "--ignored"])
            .current_dir(home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the steps without a pattern: a multiplicative walk over 30 to 180 ms.
        std::thread::sleep(Duration::from_millis(30 + (round * 2_654_435_761) % 150));
        assert!(victim.try_wait().unwrap().is_none(), "it was to be killed, and ended by itself");
        victim.kill().unwrap();
        victim.wait().unwrap();

        let last = acknowledged(home.path());
        let mut expected: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        expected.extend((1..=last).map(step));
        let (open_key, open_value) = step(last + 1);
        let states = States::open(home.path()).await.unwrap();
        let state = state(&states).await;
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            let handle = states.attach(&state, "t", mode, OnBusy::Refuse).await.unwrap();
            let keys = handle.kv().unwrap();
            for (key, value) in &expected {
                let now = keys.get(key).unwrap();
                let not_told = *key == open_key && now == open_value;
                assert!(now == *value || not_told, "round {round}: {key} after {last} steps");
            }
            let listed = keys.keys(None, 1000).unwrap();
            let values: u64 = listed.iter().map(|key| keys.get(key).unwrap().unwrap().len() as u64).sum();
            assert!(listed.iter().all(|key| expected.contains_key(key) || *key == open_key));
            if mode == Mode::ReadWrite {
                assert_eq!((handle.usage().bytes(), handle.usage().entries()), (values, listed.len() as u64));
                assert_eq!(handle.release().unwrap(), Some(values));
            }
        }
    }
    assert!(acknowledged(home.path()) > 100, "the victim got somewhere");
}
