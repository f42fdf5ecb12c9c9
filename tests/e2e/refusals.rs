//! Each reason to refuse has its own words and the code 126. What needs a private certificate authority (expired
//! certificate, identities) and odd algorithms is tested beside `src/trust`.

use vyr_guests::guest;

use crate::support::{Home, Key, Registry, run, tool};

/// An artifact pushed by oras, signed by nobody yet.
fn pushed(registry: &Registry, home: &Home, repository: &str, guest_name: &str) -> String {
    let digest = home.oras_push(&registry.reference(repository, "v1"), &guest(guest_name));
    registry.by_digest(repository, &digest)
}

fn signed_and_trusted(registry: &Registry, home: &Home) -> (String, Key) {
    let reference = pushed(registry, home, "app", "hello-p1");
    let key = home.key("cosign");
    home.cosign2_sign(&reference, &key);
    home.trust(&key);
    (reference, key)
}

fn digest_of(reference: &str) -> &str {
    reference.split_once('@').unwrap().1
}

fn sig_tag(reference: &str) -> String {
    format!("{}.sig", digest_of(reference).replace(':', "-"))
}

fn copy(home: &Home, from: &str, to: &str) {
    home.tool("crane", ["copy", from, to]).expect(0);
}

#[test]
fn a_signature_of_another_digest_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let (signed, _) = signed_and_trusted(&registry, &home);
    let other = pushed(&registry, &home, "app", "exit-p1");
    copy(&home, &registry.reference("app", &sig_tag(&signed)), &registry.reference("app", &sig_tag(&other)));
    home.vyr(["run", &signed]).expect(0);
    home.vyr(["run", &other]).expect(126).says(&["another digest", digest_of(&signed)]);
}

#[test]
fn a_signature_for_another_repository_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let (signed, _) = signed_and_trusted(&registry, &home);
    let digest = digest_of(&signed).to_owned();
    copy(&home, &signed, &registry.reference("elsewhere", "v1"));
    copy(&home, &registry.reference("app", &sig_tag(&signed)), &registry.reference("elsewhere", &sig_tag(&signed)));
    home.vyr(["run", &registry.by_digest("elsewhere", &digest)]).expect(126).says(&[
        "repository",
        "/app",
        "/elsewhere",
    ]);
}

#[test]
fn a_bundle_that_is_malformed_or_huge_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let cases = [
        ("bad", "hello-p1", b"{\"mediaType\": 7}".to_vec(), "malformed"),
        ("huge", "hello", vec![b' '; 3 << 20], "too large"),
    ];
    for (name, guest, content, words) in cases {
        let reference = pushed(&registry, &home, name, guest);
        home.write(&format!("{name}.json"), content);
        home.tool("oras", ["attach", "--artifact-type", kind, &reference, &format!("{name}.json:{kind}")]).expect(0);
        home.vyr(["run", &reference]).expect(126).says(&[words]);
        // It stays refused once it is in the store, and the flag stays the one way round.
        home.vyr(["run", &reference]).expect(126);
        home.vyr(["run", "--allow-unsigned", &reference]).expect(0);
    }
}

#[test]
fn an_altered_signature_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = pushed(&registry, &home, "app", "hello-p1");
    let key = home.key("cosign");
    home.cosign3_sign(&reference, &key);
    home.trust(&key);
    // The bundle as it is, with a signature of the same length that isn't its own.
    let listed = home.tool("oras", ["discover", "--format", "json", &reference]).expect(0);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let referrer = registry.by_digest("app", listed["referrers"][0]["digest"].as_str().unwrap());
    let manifest = home.tool("oras", ["manifest", "fetch", &referrer]).expect(0);
    let manifest: serde_json::Value = serde_json::from_str(&manifest.stdout).unwrap();
    let layer = registry.by_digest("app", manifest["layers"][0]["digest"].as_str().unwrap());
    let bundle = home.tool("oras", ["blob", "fetch", "--output", "-", &layer]).expect(0);
    let mut bundle: serde_json::Value = serde_json::from_str(&bundle.stdout).unwrap();
    let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap().replacen('e', "f", 1);
    bundle["dsseEnvelope"]["payload"] = payload.into();
    home.write("altered.json", bundle.to_string());
    let other = Home::new();
    other.trust(&key);
    let copy_of = registry.reference("copy", "v1");
    copy(&home, &reference, &copy_of);
    let copied = registry.by_digest("copy", digest_of(&reference));
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    home.tool("oras", ["attach", "--artifact-type", kind, &copied, &format!("altered.json:{kind}")]).expect(0);
    let ran = other.vyr(["run", &copied]).expect(126);
    assert!(ran.stderr.contains("signature") || ran.stderr.contains("malformed"), "{}", ran.stderr);
    other.vyr(["run", &reference]).expect(0);
}

#[test]
fn a_reject_rule_stands_and_going_round_is_on_record() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = pushed(&registry, &home, "banned", "hello-p1");
    home.vyr(["run", "--allow-unsigned", &reference]).expect(0).says(&["allow-unsigned"]);
    let audit = std::fs::read_to_string(home.vyr_home().join("audit.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(audit.lines().next().unwrap()).unwrap();
    assert_eq!(line["digest"], digest_of(&reference));
    assert!(line["refusal"].as_str().unwrap().contains("no signature"), "{line}");
    let rule = format!("version = 1\n[[rule]]\nrepository = \"{}/banned\"\naction = \"reject\"\n", registry.host());
    std::fs::write(home.vyr_home().join("trust.toml"), rule).unwrap();
    home.vyr(["run", "--allow-unsigned", &reference]).expect(126).says(&["reject"]);
    home.vyr(["run", &reference]).expect(126);
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
