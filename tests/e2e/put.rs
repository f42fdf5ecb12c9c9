//! `vyr put`: an artifact from its parts, taken apart by real clients.

use vyr_guests::guest;

use crate::support::{Home, Registry, run, tool};

fn digest_of(reference: &str) -> &str {
    reference.split_once('@').unwrap().1
}

#[test]
fn a_bundle_given_by_hand_counts_as_one_from_a_registry() {
    let (registry, home) = (Registry::start(), Home::new());
    let signed = home
        .vyr(["push", &registry.reference("app", "v1"), guest("hello-p1").to_str().unwrap()])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    // Everything as files, by real clients.
    let fetch = |what: &str, file: &str| {
        let digest = registry.by_digest("app", what);
        let mut command = home.command(tool("crane"));
        command.args(["blob", &digest]);
        home.write(file, run(command, b"").expect(0).stdout);
    };
    let manifest = home.tool("crane", ["manifest", &signed]).expect(0).stdout;
    home.write("manifest.json", &manifest);
    let parsed: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    fetch(parsed["config"]["digest"].as_str().unwrap(), "config.json");
    let listed = home.tool("oras", ["discover", "--format", "json", &signed]).expect(0);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let referrer = listed["referrers"][0]["digest"].as_str().unwrap();
    let referrer = home.tool("crane", ["manifest", &registry.by_digest("app", referrer)]).expect(0).stdout;
    let referrer: serde_json::Value = serde_json::from_str(&referrer).unwrap();
    fetch(referrer["layers"][0]["digest"].as_str().unwrap(), "bundle.json");
    std::fs::copy(guest("hello-p1"), home.work().join("app.wasm")).unwrap();

    let other = Home::new();
    other.trust(&home.machine_key());
    let at = |name: &str| home.work().join(name).to_str().unwrap().to_owned();
    let digest = digest_of(&signed);
    let words = [
        "put",
        "--manifest",
        &at("manifest.json"),
        "--blob",
        &at("config.json"),
        "--blob",
        &at("app.wasm"),
        "--digest",
        digest,
    ];
    other.vyr(words).expect(0);
    other.vyr(["run", "--offline", digest]).expect(126);
    other.vyr(words.into_iter().chain(["--signature", &at("bundle.json")])).expect(0);
    assert_eq!(other.vyr(["run", "--offline", digest]).expect(0).stdout, "hello from wasm\n");
    // Parts that don't fit are refused, and nothing enters.
    let third = Home::new();
    third
        .vyr(["put", "--manifest", &at("manifest.json"), "--blob", &at("bundle.json"), "--digest", digest])
        .expect(126);
    third.vyr(["put", "--manifest", &at("config.json"), "--digest", digest]).expect(126);
    let missing = third.vyr(["put", "--manifest", &at("manifest.json"), "--digest", digest]);
    assert!(matches!(missing.status, 125..=127), "{missing:?}");
    assert_eq!(third.vyr(["artifacts", "--all", "--output", "json"]).expect(0).stdout.trim(), "[]");
}
