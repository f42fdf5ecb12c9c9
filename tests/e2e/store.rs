//! The store's folder as other programs see it, and what `vyr` says about it.

use serde_json::Value;
use vyr_guests::guest;

use crate::support::{Home, Registry};

fn pulled(registry: &Registry, home: &Home) -> (String, String) {
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.reference("app", "v1");
    home.vyr(["pull", "--allow-unsigned", &reference]).expect(0);
    (reference, digest)
}

#[test]
fn oras_and_skopeo_read_the_store_as_an_image_layout() {
    let (registry, home) = (Registry::start(), Home::new());
    let (_, digest) = pulled(&registry, &home);
    let store = home.store();

    let from = format!("{}@{digest}", store.display());
    let copied = registry.reference("copied/by-oras", "v1");
    home.tool("oras", ["copy", "--from-oci-layout", &from, &copied]).expect(0);
    assert_eq!(home.crane_digest(&copied), digest);

    let index: Value = serde_json::from_slice(&std::fs::read(store.join("index.json")).unwrap()).unwrap();
    let entry = index["manifests"].as_array().unwrap().iter().find(|m| m["digest"] == *digest).expect("it is listed");
    let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().expect("it has a name");
    let (from, to) =
        (format!("oci:{}:{name}", store.display()), format!("oci:{}:v1", home.work().join("copy").display()));
    home.tool("skopeo", ["copy", "--insecure-policy", "--preserve-digests", &from, &to]).expect(0);
    assert!(home.work().join("copy/blobs").join(digest.replace(':', "/")).is_file());

    home.tool("umoci", ["ls", "--layout", store.to_str().unwrap()]).expect(0);
}

#[test]
fn artifacts_lists_what_was_pulled_and_gc_can_say_what_it_would_do() {
    let (registry, home) = (Registry::start(), Home::new());
    let (_, digest) = pulled(&registry, &home);
    let listed = home.vyr(["artifacts", "--output", "json"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("one JSON document");
    assert!(listed.to_string().contains(&digest), "{listed}");
    home.vyr(["gc", "--dry-run"]).expect(0);
    home.vyr(["run", "--offline", "--allow-unsigned", &digest]).expect(0);
}

#[test]
fn an_exported_layout_is_read_by_oras_runs_in_place_and_imports_elsewhere() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, digest) = pulled(&registry, &home);
    home.vyr(["export", &reference, "layout"]).expect(0);
    let copied = registry.reference("copied/from-export", "v1");
    home.tool("oras", ["copy", "--from-oci-layout", &format!("layout@{digest}"), &copied]).expect(0);
    assert_eq!(home.crane_digest(&copied), digest);
    let in_place = format!("oci:layout@{digest}");
    assert_eq!(home.vyr(["run", "--allow-unsigned", &in_place]).expect(0).stdout, "hello from wasm\n");

    let other = Home::new();
    let layout = home.work().join("layout");
    other.vyr(["import", layout.to_str().unwrap()]).expect(0);
    let ran = other.vyr(["run", "--offline", "--allow-unsigned", &digest]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n");
}

#[test]
fn two_runs_at_once_share_one_store() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| home.vyr(["run", "--allow-unsigned", &reference]).expect(0).stdout))
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), "hello from wasm\n");
        }
    });
}
