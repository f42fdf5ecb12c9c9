//! Runs that give the same output each time, and receipts that are run again.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Home, Node, Registry, pushed};

#[test]
fn two_runs_with_one_seed_are_one_on_any_home_and_with_another_they_are_not() {
    let (registry, home, other) = (Registry::start(), Home::new(), Home::new());
    let guests = ["chance", "chance-p1"].map(|guest| pushed(&home, &registry, guest));
    other.vyr(["trust", "add", "--key", home.machine_key().public.to_str().unwrap()]).expect(0);
    for guest in guests {
        let run = |home: &Home, flag: &str| home.vyr(["run", flag, &guest, "--", "3600"]).expect(0).stdout;
        let began = Instant::now();
        let first = run(&home, "--deterministic");
        assert!(began.elapsed() < Duration::from_secs(600), "its hour is its own");
        assert!(first.contains("wall 946684800.") && first.contains("took 3600000"), "{first}");
        assert!(first.ends_with("nan 7ff8000000000000\n"), "{first}");
        assert_eq!(run(&other, "--deterministic"), first);
        assert_eq!(run(&home, "--deterministic=0"), first);
        assert_ne!(run(&home, "--deterministic=1"), first);
        let plain = home.vyr(["run", &guest]).expect(0).stdout;
        assert_ne!(home.vyr(["run", &guest]).expect(0).stdout, plain, "without it they differ");
    }
    home.vyr(["run", "--deterministic", "--allow-net", "localhost:1", "localhost:1/x"]).expect(2);
}

#[test]
fn a_replay_matches_or_says_where_it_went_another_way() {
    let (registry, home) = (Registry::start(), Home::new());
    let (chance, state) = (pushed(&home, &registry, "chance"), pushed(&home, &registry, "state-p1"));
    let node = Node::start(&home, &[]);
    let url = &format!("http://{}", node.address);
    let submit = |words: &[&str]| {
        let words = [&["submit", "--node", url, "--wait"][..], words].concat();
        home.vyr(words).expect(0).stdout.trim().to_owned()
    };
    let task = submit(&[&chance, "--deterministic=7", "--receipt-values", "--", "5"]);
    home.vyr(["replay", &task, "--node", url]).expect(0);
    let replayed = home.vyr(["replay", &task, "--node", url, "--output", "json"]).expect(0).json();
    assert_eq!((replayed["matches"].as_bool(), replayed["deterministic"].as_bool()), (Some(true), Some(true)));

    // With the machine's time and chance it can't go the same way; the place is named.
    let task = submit(&[&chance]);
    let replayed = home.vyr(["replay", &task, "--node", url]).expect(1);
    assert!(replayed.stdout.contains("stdout from byte ") && replayed.stdout.contains("(line "), "{}", replayed.stdout);
    assert!(replayed.stdout.contains("--deterministic"), "{}", replayed.stdout);
    let bundle = home.vyr(["receipt", "show", &task, "--node", url, "--bundle"]).expect(0).stdout;
    let file = home.write("receipt.json", bundle);
    let replayed = home.vyr(["replay", file.to_str().unwrap(), "--output", "json"]).expect(1).json();
    assert_eq!(replayed["differences"][0]["what"].as_str(), Some("stdout"), "from the receipt alone it is known that");

    // What isn't in the receipt has to be given, and be what it was.
    let task = submit(&[&state, "--deterministic", "--env", "A=b", "--", "exit:0"]);
    let replay = |words: &[&str]| home.vyr([&["replay", &task, "--node", url][..], words].concat());
    replay(&[]).expect(127).says(&["its input is gone", "--"]);
    replay(&["--", "exit:0"]).expect(127).says(&["its input is gone", "--env"]);
    replay(&["--env", "A=c", "--", "exit:0"]).expect(126).says(&["the variable A is not what was recorded"]);
    replay(&["--env", "A=b", "--", "exit:1"]).expect(126).says(&["argument 1 is not what was recorded"]);
    replay(&["--env", "A=b", "--", "exit:0"]).expect(0);
    let stdin = home.write("in", "some input");
    let task = submit(&[&state, "--deterministic", "--stdin", stdin.to_str().unwrap()]);
    home.vyr(["replay", &task, "--node", url]).expect(127).says(&["standard input", "--stdin"]);
    home.vyr(["replay", &task, "--node", url, "--stdin", stdin.to_str().unwrap()]).expect(0);
    fs::write(&stdin, "another").unwrap();
    home.vyr(["replay", &task, "--node", url, "--stdin", stdin.to_str().unwrap()]).expect(126);
}
