//! `vyr push` and `vyr sign`, judged by the real clients.

use vyr_guests::guest;

use crate::support::{Home, Registry};

#[test]
fn push_prints_the_digest_alone_and_both_cosigns_verify_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let key = home.key("cosign");
    let wasm = guest("hello");
    let (reference, private) = (registry.reference("app", "v1"), key.private.to_str().unwrap());
    let pushed = home.vyr(["push", &reference, wasm.to_str().unwrap(), "--sign-key", private]).expect(0);
    let line = pushed.stdout.strip_suffix('\n').unwrap();
    let (name, digest) = line.split_once('@').unwrap();
    assert_eq!(name, reference);
    assert_eq!(digest, home.crane_digest(&reference), "crane sees the same digest");

    let by_digest = registry.by_digest("app", digest);
    for cosign in ["cosign", "cosign-older"] {
        home.cosign_verify(cosign, &by_digest, &key.public).expect(0);
        let other = home.key(&format!("other-{cosign}"));
        assert_ne!(home.cosign_verify(cosign, &by_digest, &other.public).status, 0, "{cosign} and another key");
    }

    // oras reads the artifact and gets the same bytes.
    home.tool("oras", ["pull", "--output", "pulled", &reference]).expect(0);
    let files: Vec<_> = std::fs::read_dir(home.work().join("pulled")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one layer: {files:?}");
    assert_eq!(std::fs::read(&files[0]).unwrap(), std::fs::read(&wasm).unwrap());
}

#[test]
fn of_an_index_the_signature_that_counts_is_recorded() {
    let (registry, signer) = (Registry::start(), Home::new());
    let key = signer.key("cosign");
    for (repository, inner) in [("index", false), ("inner", true)] {
        let home = Home::new();
        home.trust(&key);
        let digest = home.push_dual(&registry, repository, "v1", &guest("hello-p1"));
        let reference = registry.by_digest(repository, &digest);
        home.vyr(["run", &reference]).expect(126);
        let index = home.tool("crane", ["manifest", &reference]).expect(0).stdout;
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let wasm =
            index["manifests"].as_array().unwrap().iter().find(|m| m["platform"]["architecture"] == "wasm").unwrap();
        let signed = if inner { wasm["digest"].as_str().unwrap() } else { &digest };
        home.cosign3_sign(&registry.by_digest(repository, signed), &key);
        for _ in 0..2 {
            home.vyr(["run", "--report", "report.json", &reference]).expect(0);
            let report: serde_json::Value =
                serde_json::from_slice(&std::fs::read(home.work().join("report.json")).unwrap()).unwrap();
            assert_eq!(report["signed_digest"], signed, "{repository}: {report}");
            assert_eq!((&report["digest"], &report["manifest"]), (&digest.as_str().into(), &wasm["digest"]));
        }
    }
}

#[test]
fn the_same_artifact_is_mounted_from_where_it_was_pushed_before() {
    let (registry, home) = (Registry::start(), Home::new());
    let wasm = guest("hello-p1");
    home.vyr(["push", &registry.reference("first", "v1"), wasm.to_str().unwrap()]).expect(0);
    let second = home.vyr(["push", &registry.reference("second", "v1"), wasm.to_str().unwrap()]).expect(0);
    assert!(registry.log().contains("mount="), "the registry was asked to mount");
    Home::new().vyr(["run", "--allow-unsigned", second.stdout.trim()]).expect(0);
}

#[test]
fn push_and_run_work_at_once_with_this_machine_s_own_key() {
    let (registry, home) = (Registry::start(), Home::new());
    let pushed = home.vyr(["push", &registry.reference("app", "v1"), guest("hello").to_str().unwrap()]).expect(0);
    assert_eq!(home.vyr(["run", pushed.stdout.trim()]).expect(0).stdout, "hello from wasm\n");
    // Another machine doesn't trust it until told.
    Home::new().vyr(["run", pushed.stdout.trim()]).expect(126);
}

#[test]
fn pushing_the_same_file_twice_is_the_same_digest() {
    let (registry, home) = (Registry::start(), Home::new());
    let wasm = guest("hello");
    let push = |tag| home.vyr(["push", &registry.reference("app", tag), wasm.to_str().unwrap()]).expect(0).stdout;
    let (first, second) = (push("v1"), push("v2"));
    assert_eq!(first.split_once('@').unwrap().1, second.split_once('@').unwrap().1);
}

#[test]
fn sign_is_verified_by_cosign_and_verify_accepts_cosign() {
    let (registry, home) = (Registry::start(), Home::new());
    let key = home.key("cosign");
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    home.vyr(["verify", &reference]).expect(126);
    home.vyr(["sign", &reference, "--key", key.private.to_str().unwrap()]).expect(0);
    for cosign in ["cosign", "cosign-older"] {
        home.cosign_verify(cosign, &reference, &key.public).expect(0);
    }
    home.trust(&key);
    home.vyr(["verify", &reference]).expect(0);

    for (repository, classic) in [("by-3", false), ("by-2", true)] {
        let digest = home.oras_push(&registry.reference(repository, "v1"), &guest("exit"));
        let reference = registry.by_digest(repository, &digest);
        home.vyr(["verify", &reference]).expect(126);
        if classic {
            home.cosign2_sign(&reference, &key);
        } else {
            home.cosign3_sign(&reference, &key);
        }
        home.vyr(["verify", &reference]).expect(0);
    }
}

#[test]
fn what_is_not_wasm_is_not_pushed() {
    let (registry, home) = (Registry::start(), Home::new());
    home.write("text.wasm", "this is no wasm");
    home.vyr(["push", &registry.reference("app", "v1"), "text.wasm"]).expect(125).says(&["text.wasm"]);
    assert_ne!(home.tool("crane", ["digest", &registry.reference("app", "v1")]).status, 0);
}
