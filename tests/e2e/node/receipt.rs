//! Receipts: made for every execution, signed, genuine or refused, read by cosign.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::{Home, Node, Registry, pushed, sha256, tool};

fn stated(home: &Home, url: &str, task: &str) -> Value {
    home.vyr(["receipt", "show", task, "--node", url, "--output", "json"]).expect(0).json()
}

#[test]
fn a_receipt_says_what_happened_and_cosign_takes_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let node = Node::start(&home, &[]);
    let url = &format!("http://{}", node.address);
    home.vyr(["state", "create", "s"]).expect(0);
    let words = [
        "submit",
        &guest,
        "--node",
        url,
        "--wait",
        "--state",
        "s",
        "--env",
        "TOKEN=hidden",
        "--",
        "text:/state/s/x:1",
        "exit:3",
    ];
    let task = home.vyr(words).expect(3).stdout.trim().to_owned();
    let receipt = stated(&home, url, &task);
    let predicate = &receipt["predicate"];
    assert!(guest.ends_with(receipt["subject"].as_str().unwrap()), "{receipt}");
    assert_eq!(predicate["task"]["id"].as_str(), Some(task.as_str()));
    assert_eq!((predicate["end"]["status"].as_str(), predicate["end"]["exitCode"].as_i64()), (Some("failed"), Some(3)));
    let logs = home.vyr(["logs", &task, "--node", url]).expect(0).stdout;
    let stdout = &predicate["outputs"]["stdout"];
    assert_eq!(stdout["digest"].as_str(), Some(sha256(logs.as_bytes()).as_str()));
    assert_eq!(stdout["bytes"].as_u64(), Some(logs.len() as u64));
    assert_eq!(predicate["inputs"]["args"][1]["digest"].as_str(), Some(sha256(b"exit:3").as_str()));
    assert_eq!(predicate["inputs"]["env"]["TOKEN"]["digest"].as_str(), Some(sha256(b"hidden").as_str()));
    let state = &predicate["inputs"]["states"][0];
    assert_eq!((state["name"].as_str(), state["before"].as_str()), (Some("s"), Some(sha256(b"").as_str())));
    // The line that sha256sum prints of the one file, hashed.
    let line = format!("{}  x\n", sha256(b"1").strip_prefix("sha256:").unwrap());
    assert_eq!(state["after"].as_str(), Some(sha256(line.as_bytes()).as_str()));
    assert!(predicate["verified"]["acceptance"].as_str().unwrap().contains("signed by this machine's key"));
    assert!(!receipt.to_string().contains("hidden"));
    // Values where they are asked for.
    let words = ["submit", &guest, "--node", url, "--wait", "--receipt-values", "--env", "TOKEN=open", "--", "exit:0"];
    let open = home.vyr(words).expect(0).stdout.trim().to_owned();
    let receipt = stated(&home, url, &open);
    assert_eq!(receipt["predicate"]["inputs"]["env"]["TOKEN"]["value"].as_str(), Some("open"));

    // Genuine by the policy and by the key, elsewhere by the key alone.
    home.vyr(["receipt", "verify", &task, "--node", url]).expect(0);
    let bundle = home.vyr(["receipt", "show", &task, "--node", url, "--bundle"]).expect(0).stdout;
    let file = home.write("receipt.json", &bundle);
    let (file, elsewhere) = (file.to_str().unwrap(), Home::new());
    let key = home.machine_key().public;
    let key = key.to_str().unwrap();
    elsewhere.vyr(["receipt", "verify", file, "--key", key]).expect(0);
    elsewhere.vyr(["receipt", "verify", file]).expect(126).says(&["not genuine", "--key"]);
    let other = home.key("other").public;
    elsewhere.vyr(["receipt", "verify", file, "--key", other.to_str().unwrap()]).expect(126);

    // Edited after it was signed.
    let mut edited: Value = serde_json::from_str(&bundle).unwrap();
    let payload = STANDARD.decode(edited["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let payload = String::from_utf8(payload).unwrap().replace("\"exitCode\":3", "\"exitCode\":0");
    edited["dsseEnvelope"]["payload"] = STANDARD.encode(payload).into();
    let edited = home.write("edited.json", edited.to_string());
    home.vyr(["receipt", "verify", edited.to_str().unwrap()]).expect(126).says(&["did not make it over this content"]);
    let nonsense = home.write("nonsense.json", "{}");
    home.vyr(["receipt", "verify", nonsense.to_str().unwrap()]).expect(125).says(&["not a receipt"]);
    home.vyr(["receipt", "show", "nowhere.json"]).expect(2);

    // Beside the artifact, where cosign finds it; twice is once.
    let first = home.vyr(["receipt", "push", &task, "--node", url]).expect(0).stdout;
    assert_eq!(home.vyr(["receipt", "push", file]).expect(0).stdout, first);
    let mut cosign = home.command(tool("cosign"));
    cosign.args(["verify-attestation", "--insecure-ignore-tlog=true", "--type"]);
    cosign.args(["https://vyr.dev/attestation/execution/v0", "--key", key, &guest]);
    let said = crate::support::run(cosign, b"").expect(0).stdout;
    let envelope: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    assert!(String::from_utf8(payload).unwrap().contains(&task));
    // It is no signature of the artifact, and doesn't stand in the way of one.
    let third = Home::new();
    third.vyr(["trust", "add", "--key", key]).expect(0);
    third.vyr(["run", &guest, "--", "exit:0"]).expect(0);
    fs::remove_dir_all(third.vyr_home().join("store")).unwrap();
}

#[test]
fn what_did_not_run_has_its_receipt_too_and_none_is_made_where_none_is_wanted() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "hello-p1");
    let unsigned =
        registry.by_digest("other", &home.oras_push(&registry.reference("other", "v1"), &vyr_guests::guest("exit")));
    let node = Node::start(&home, &[]);
    let url = &format!("http://{}", node.address);
    let task = home.vyr(["submit", &unsigned, "--node", url]).expect(0).stdout.trim().to_owned();
    home.vyr(["wait", &task, "--node", url]).expect(126);
    let receipt = stated(&home, url, &task);
    assert_eq!(receipt["predicate"]["end"]["status"].as_str(), Some("refused"), "{receipt}");
    assert!(receipt["predicate"]["artifact"].get("path").is_none(), "nothing ran");

    // What a tag named then is on record, whatever it names later.
    let by_tag = home.vyr(["submit", &registry.reference("other", "v1"), "--node", url]).expect(0);
    let by_tag = by_tag.stdout.trim().to_owned();
    home.vyr(["wait", &by_tag, "--node", url]).expect(126);
    let subject = receipt["subject"].as_str().unwrap();
    assert_eq!(stated(&home, url, &by_tag)["subject"].as_str(), Some(subject));
    let sleep = pushed(&home, &registry, "sleep-p1");
    let (_, digest) = sleep.rsplit_once('@').unwrap();
    let lost = home.vyr(["submit", &registry.reference("sleep", "v1"), "--node", url, "--", "600000"]).expect(0);
    let lost = lost.stdout.trim().to_owned();
    while home.vyr(["status", &lost, "--node", url, "--output", "json"]).expect(0).json()["status"] != "running" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.kill();
    let node = Node::start(&home, &[]);
    let url = &format!("http://{}", node.address);
    home.vyr(["wait", &lost, "--node", url]).expect(125);
    let told = stated(&home, url, &lost);
    assert_eq!(told["predicate"]["end"]["status"].as_str(), Some("lost"), "{told}");
    assert_eq!(told["subject"].as_str(), Some(digest));
    assert!(told["predicate"].get("outputs").is_none(), "what it wrote died with its sum: {told}");
    node.kill();

    let node = Node::start(&home, &["--no-receipts"]);
    let url = &format!("http://{}", node.address);
    // One that was made stays.
    stated(&home, url, &task);
    let task = home.vyr(["submit", &guest, "--node", url, "--wait"]).expect(0).stdout.trim().to_owned();
    home.vyr(["receipt", "show", &task, "--node", url]).expect(127).says(&["has no receipt", "--no-receipts"]);
}
