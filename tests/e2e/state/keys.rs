//! States of keys: three doors to the same data.

use crate::support::{Home, Node, Registry, pushed};

#[test]
fn three_doors_to_the_same_data() {
    let (registry, home) = (Registry::start(), Home::new());
    let (component, module) = (pushed(&home, &registry, "keyvalue"), pushed(&home, &registry, "state-p1"));
    home.vyr(["state", "create", "counters", "--kind", "kv", "--quota", "1KiB"]).expect(0);
    let by_key =
        |words: &[&str]| home.vyr([&["run", "--state", "data=counters", &component, "--", "data"][..], words].concat());
    let by_file = |words: &[&str]| home.vyr([&["run", "--state", "data=counters", &module, "--"][..], words].concat());
    by_key(&["set", "a/b", "by key"]).expect(0);
    assert_eq!(
        by_file(&["ls:/state/data", "read:/state/data/a%2Fb"]).expect(0).stdout,
        "ls ok a%2Fb\nread ok by key\n"
    );
    assert_eq!(home.vyr(["state", "get", "counters", "a/b"]).expect(0).stdout, "by key");
    by_file(&["text:/state/data/c:by file", "rm:/state/data/a%2Fb"]).expect(0);
    assert_eq!(by_key(&["get", "c"]).expect(0).stdout.trim_end(), "by file");
    home.vyr(["state", "get", "counters", "a/b"]).expect(127).says(&["has no key `a/b`"]);
    let shown = home.vyr(["state", "show", "counters", "--output", "json"]).expect(0).json();
    assert_eq!((shown["kind"].as_str(), shown["used_bytes"].as_u64()), (Some("kv"), Some(7)));

    // A task of a node and this machine's command line at once.
    let node = Node::start(&home, &[]);
    let url = &format!("http://{}", node.address);
    let words = [
        "submit",
        &component,
        "--node",
        url,
        "--wait",
        "--state",
        "data=counters",
        "--",
        "data",
        "set",
        "d",
        "by a task",
    ];
    home.vyr(words).expect(0);
    assert_eq!(home.vyr(["state", "get", "counters", "d"]).expect(0).stdout, "by a task");
    // A state of files has no keys, and says so to the guest.
    home.vyr(["state", "create", "plain"]).expect(0);
    home.vyr(["run", "--state", "data=plain", &component, "--", "data", "get", "x"]).expect(1);
}
