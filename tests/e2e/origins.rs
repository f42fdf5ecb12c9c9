//! Whose rule of the trust policy counts: that of the repository which an artifact is really from, whatever name it is
//! asked for by.

use std::fs;

use vyr_guests::guest;
use vyr_proto::v0::*;

use crate::support::{Home, Node, Output, Registry, spec};

/// A registry with an unsigned artifact in `team/app`, and a home whose policy needs a signature but for `open`.
fn scene() -> (Registry, Home, String) {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("team/app", "v1"), &guest("hello-p1"));
    policy(&home, &format!("[[rule]]\nrepository = \"{}/open\"\naction = \"accept-unsigned\"\n", registry.host()));
    (registry, home, digest)
}

fn policy(home: &Home, rules: &str) {
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(home.vyr_home().join("trust.toml"), format!("version = 1\n{rules}")).unwrap();
}

/// Puts the artifact of the registry into the store by its parts, under a name.
fn put(home: &Home, registry: &Registry, digest: &str, name: &str) -> Output {
    let manifest = fs::read_to_string(registry.blob(digest)).unwrap();
    home.write("manifest.json", &manifest);
    let parsed: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let blob = |at: &str| registry.blob(parsed.pointer(at).unwrap().as_str().unwrap()).to_str().unwrap().to_owned();
    let (config, layer) = (blob("/config/digest"), blob("/layers/0/digest"));
    home.vyr(["put", "--manifest", "manifest.json", "--blob", &config, "--blob", &layer, "--name", name])
}

#[test]
fn the_name_that_is_written_does_not_choose_the_rule() {
    let (registry, home, digest) = scene();
    let (team, open) = (registry.by_digest("team/app", &digest), registry.by_digest("open/app", &digest));
    home.vyr(["run", &team]).expect(126);
    // The store has it now, and what it has is not from there.
    let refused = home.vyr(["run", &open]).expect(127);
    assert!(refused.stderr.contains(&format!("not from {}/open/app", registry.host())), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("{}/team/app@{digest}", registry.host())), "{}", refused.stderr);
    for never in [["--offline", "run", &open], ["run", "--pull=never", &open]] {
        let refused = home.vyr(never).expect(127);
        assert!(refused.stderr.contains("is in the store, but not from"), "{}", refused.stderr);
    }
    home.vyr(["run", &digest]).expect(126);
    // Where it really is, it may run from; that is no proof for the other one.
    home.tool("crane", ["copy", &team, &registry.reference("open/app", "v1")]).expect(0);
    home.vyr(["run", &open]).expect(0);
    home.vyr(["run", "--offline", &open]).expect(0);
    home.vyr(["run", &team]).expect(126);
    // Of two places, neither one's rule counts for the digest alone.
    home.vyr(["run", &digest]).expect(126);
}

#[test]
fn a_rule_that_rejects_is_not_got_round_by_another_name() {
    let (mut registry, home, digest) = scene();
    let team = registry.by_digest("team/app", &digest);
    let key = home.key("cosign");
    home.cosign3_sign(&team, &key);
    let reject = format!("[[rule]]\nrepository = \"{}/team\"\naction = \"reject\"\n", registry.host());
    policy(&home, &format!("{reject}[[rule]]\nkeys = [\"{}\"]\n", key.public.display()));
    home.vyr(["run", &team]).expect(126);
    home.vyr(["run", &registry.by_digest("other/app", &digest)]).expect(127);
    // A name that somebody gives it is a name, and it is still from where it is from.
    let other = registry.reference("other/app", "v1");
    put(&home, &registry, &digest, &other).expect(0);
    for name in [&other, &registry.by_digest("other/app", &digest), &digest] {
        home.vyr(["--offline", "run", name]).expect(126);
    }
    registry.stop();
    home.vyr(["run", &other]).expect(126);
}

#[test]
fn what_is_put_under_a_name_is_not_proven_to_be_from_there() {
    let (registry, home, digest) = scene();
    let (open, by_digest) = (registry.reference("open/app", "v1"), registry.by_digest("open/app", &digest));
    put(&home, &registry, &digest, &open).expect(0);
    for name in [&open, &by_digest, &digest] {
        let refused = home.vyr(["--offline", "run", name]).expect(126);
        assert!(refused.stderr.contains("nothing but the word of who brought it"), "{}", refused.stderr);
    }
    home.vyr(["run", &by_digest]).expect(126);
    // Overruled, it's as with everything else.
    home.vyr(["--offline", "run", "--allow-unsigned", &by_digest]).expect(0);
    home.vyr(["--offline", "run", &by_digest]).expect(126);
    // Its registry has the last word, and is remembered.
    home.tool("crane", ["copy", &registry.by_digest("team/app", &digest), &open]).expect(0);
    home.vyr(["run", &by_digest]).expect(0);
    for name in [&open, &by_digest, &digest] {
        home.vyr(["--offline", "run", name]).expect(0);
    }
    // A signature by who is trusted for a repository counts under its name, wherever the parts came from.
    let key = home.key("cosign");
    let signed = home.oras_push(&registry.reference("team/signed", "v1"), &guest("hello-p1"));
    home.cosign3_sign(&registry.by_digest("team/signed", &signed), &key);
    let other = Home::new();
    let rule = format!("[[rule]]\nrepository = \"{}/team\"\nkeys = [\"{}\"]\n", registry.host(), key.public.display());
    policy(&other, &rule);
    other.vyr(["run", &registry.by_digest("team/signed", &signed)]).expect(0);
}

#[tokio::test]
async fn a_node_s_proof_for_one_repository_is_none_for_another() {
    let (registry, home, digest) = scene();
    let (team, open) = (registry.by_digest("team/app", &digest), registry.by_digest("open/app", &digest));
    home.tool("crane", ["copy", &team, &registry.reference("open/app", "v1")]).expect(0);
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    for reference in [&open, &open, &digest, &digest] {
        let task = client.run(spec(reference, &[])).await;
        assert_eq!(task.status(), TaskStatus::Succeeded, "{reference}: {task:?}");
    }
    // It is hot, and from a second place now, whose rule is another.
    for reference in [&team, &digest] {
        let task = client.run(spec(reference, &[])).await;
        assert_eq!(task.status(), TaskStatus::Refused, "{reference}: {task:?}");
    }
    let task = client.run(spec(&open, &[])).await;
    assert_eq!(task.status(), TaskStatus::Succeeded, "{task:?}");
}

#[test]
fn a_repository_of_the_own_registry_has_what_is_in_it() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let host = node.host();
    let digest = home.oras_push(&format!("{host}/team/app:v1"), &guest("hello-p1"));
    policy(&home, &format!("[[rule]]\nrepository = \"{host}/open\"\naction = \"accept-unsigned\"\n"));
    let (team, open) = (format!("{host}/team/app@{digest}"), format!("{host}/open/app@{digest}"));
    home.vyr(["run", &team]).expect(126);
    for other in [&open, &format!("vyr.localhost/open/app@{digest}")] {
        let missing = home.vyr(["run", other]).expect(127);
        assert!(missing.stderr.contains("this node's registry has no"), "{}", missing.stderr);
    }
    home.tool("crane", ["copy", &team, &format!("{host}/open/app:v1")]).expect(0);
    home.vyr(["run", &open]).expect(0);
    home.vyr(["run", &team]).expect(126);
    // What it has is known when no node serves it, too.
    node.kill();
    home.vyr(["--offline", "run", &open]).expect(0);
    home.vyr(["--offline", "run", &format!("{host}/other/app@{digest}")]).expect(127);
}
