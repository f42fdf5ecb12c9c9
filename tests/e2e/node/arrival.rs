//! What arrives at a node is compiled before anybody runs it: a push, once it is signed, and what is mirrored.

use std::fs;
use std::time::{Duration, Instant};

use vyr_guests::guest;
use vyr_proto::v0::StartTier;

use crate::support::{Home, Node, Registry, spec};

/// Whether compiled code of `reference` is there.
fn compiled(home: &Home, reference: &str) -> bool {
    home.vyr(["inspect", "--pull", "never", "--output", "json", reference]).expect(0).json()["compiled"] == true
}

#[track_caller]
fn wait_for_code(home: &Home, node: &Node, reference: &str) {
    let began = Instant::now();
    while !compiled(home, reference) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", node.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn push(home: &Home, node: &Node) -> (String, Duration) {
    let reference = format!("{}/team/app:v1", node.host());
    let pushed = home.vyr(["push", &reference, guest("hello-p1").to_str().unwrap()]).expect(0);
    (pushed.stdout.trim().to_owned(), pushed.took)
}

#[tokio::test]
async fn the_first_run_after_a_push_finds_compiled_code_unless_that_is_off() {
    for (arguments, wanted) in [
        (&["--compile-on-arrival", "true"][..], StartTier::S2),
        (&[][..], StartTier::S2),
        (&["--compile-on-arrival", "false"][..], StartTier::S1),
    ] {
        let home = Home::new();
        let node = Node::start(&home, arguments);
        let (reference, pushed_in) = push(&home, &node);
        if wanted == StartTier::S2 {
            wait_for_code(&home, &node, &reference);
        } else {
            std::thread::sleep(Duration::from_secs(2));
            assert!(!compiled(&home, &reference));
        }
        let mut client = node.connect().await;
        let began = Instant::now();
        let task = client.run(spec(&reference, &[])).await;
        let took = began.elapsed();
        assert_eq!(task.execution.as_ref().unwrap().tier(), wanted, "{task:?}");
        eprintln!(
            "{arguments:?}: push {pushed_in:?}, first run {:?} in {took:?}",
            task.execution.as_ref().unwrap().tier()
        );
    }
}

#[tokio::test]
async fn nothing_unverified_is_compiled_and_a_signature_that_comes_later_does_it() {
    let home = Home::new();
    let key = home.key("key");
    home.trust(&key);
    let node = Node::start(&home, &[]);
    for (tag, sign) in [("three", Home::cosign3_sign as fn(&Home, &str, &_)), ("two", Home::cosign2_sign)] {
        let name = format!("{}/team/{tag}:v1", node.host());
        // Compiled code goes by the Wasm: each has its own.
        let wasm = guest(if tag == "two" { "exit-p1" } else { "hello-p1" });
        let digest = home.oras_push(&name, &wasm);
        std::thread::sleep(Duration::from_secs(1));
        assert!(!compiled(&home, &name), "{tag}");
        sign(&home, &format!("{}/team/{tag}@{digest}", node.host()), &key);
        wait_for_code(&home, &node, &name);
    }
}

#[test]
fn what_is_too_large_waits_for_its_run() {
    let home = Home::new();
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(home.vyr_home().join("config.toml"), "[serve]\ncompile-largest-bytes = 1000\n").unwrap();
    let node = Node::start(&home, &[]);
    let (reference, _) = push(&home, &node);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!compiled(&home, &reference));
    home.vyr(["warm", &reference]).expect(0);
    assert!(compiled(&home, &reference));
}

#[test]
fn what_is_mirrored_is_compiled_when_it_comes() {
    let (registry, publisher, home) = (Registry::start(), Home::new(), Home::new());
    let upstream = registry.reference("team/app", "v1");
    publisher.vyr(["push", &upstream, guest("hello-p1").to_str().unwrap()]).expect(0);
    home.trust(&publisher.machine_key());
    let mirror = format!("[[mirror]]\nprefix = \"up\"\nupstream = \"{}\"\n", registry.host());
    fs::write(home.vyr_home().join("config.toml"), mirror).unwrap();
    let node = Node::start(&home, &[]);
    home.crane_digest(&format!("{}/up/team/app:v1", node.host()));
    wait_for_code(&home, &node, &upstream);
}

#[test]
fn warm_makes_a_first_run_find_compiled_code() {
    let (registry, publisher, home) = (Registry::start(), Home::new(), Home::new());
    let name = registry.reference("team/app", "v1");
    publisher.vyr(["push", &name, guest("hello-p1").to_str().unwrap()]).expect(0);
    home.vyr(["warm", &name]).expect(126).says(&["could not warm", "by no key"]);
    home.trust(&publisher.machine_key());
    let warmed = home.vyr(["warm", &name, "--output", "json"]).expect(0).json();
    assert_eq!(warmed["code_origin"], "compiled");
    home.vyr(["run", "--report", "report.json", &name]).expect(0);
    let report = fs::read_to_string(home.work().join("report.json")).unwrap();
    assert!(report.contains(r#""start_tier": "S2""#) && report.contains(r#""code_origin": "cached""#), "{report}");
}
