//! States in a container: the same folder as a guest of Wasm sees, under the same quota.

use super::{run, shell};
use crate::support::Home;

#[test]
fn a_container_and_a_wasm_see_the_same_state() {
    let home = Home::new();
    let layout = shell(&home);
    home.vyr(["state", "create", "counts", "--class", "node", "--quota", "1MiB"]).expect(0);
    let with =
        |code: i32, script: &str| run(&home, code, &["--allow-unsigned", "--state", "counts", &layout, "--", script]);
    with(0, "echo from-linux > /state/counts/word");
    let (_, output) = with(0, "cat /state/counts/word");
    assert_eq!(output, "from-linux\n");
    let pushed = home.vyr(["push", "oci:files:v1", vyr_guests::guest("state").to_str().unwrap()]).expect(0);
    let ran = home.vyr(["run", "--state", "counts", pushed.stdout.trim(), "--", "read:/state/counts/word"]);
    assert!(ran.stdout.contains("from-linux"), "{ran:?}");
    let read_only =
        ["--allow-unsigned", "--state", "counts=counts:ro", &layout, "--", "touch /state/counts/x || echo kept"];
    let (_, output) = run(&home, 0, &read_only);
    assert_eq!(output, "kept\n");
}

#[test]
fn a_user_of_the_image_may_write_to_it_and_nobody_beyond_the_quota() {
    let home = Home::new();
    let layout = shell(&home);
    home.vyr(["state", "create", "small", "--class", "node", "--quota", "1MiB"]).expect(0);
    let with = |code: i32, script: &str| {
        run(&home, code, &["--allow-unsigned", "--user", "worker", "--state", "small", &layout, "--", script])
    };
    with(0, "echo mine > /state/small/mine");
    let (report, _) = with(137, "dd if=/dev/zero of=/state/small/big bs=64k count=80 2>/dev/null; sleep 20");
    assert_eq!(report["outcome"], "over_quota", "{report}");
    let shown = home.vyr(["state", "show", "small", "--output", "json"]).expect(0).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["used_bytes"].as_u64().unwrap() > 1 << 20, "what is there is counted: {shown}");
}
