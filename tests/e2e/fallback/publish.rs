//! Both in one artifact.

use serde_json::Value;
use vyr_guests::guest;

use super::{image, needs_more, run, shell};
use crate::support::{Home, Registry, architecture};

#[test]
fn an_index_with_both_is_pushed_signed_once_and_read_by_the_others_tools() {
    let (registry, home) = (Registry::start(), Home::new());
    let layout = shell(&home);
    let reference = registry.reference("both", "v1");
    let pushed = home.vyr(["push", &reference, guest("hello").to_str().unwrap(), "--fallback", &layout]).expect(0);
    let by_digest = pushed.stdout.trim().to_owned();
    let index: Value = serde_json::from_str(&home.tool("crane", ["manifest", &reference]).expect(0).stdout).unwrap();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            format!("{}/{}", m["platform"]["os"].as_str().unwrap(), m["platform"]["architecture"].as_str().unwrap())
        })
        .collect();
    assert_eq!(platforms, ["wasip2/wasm".to_owned(), format!("linux/{}", architecture())]);
    for cosign in ["cosign", "cosign-older"] {
        home.cosign_verify(cosign, &by_digest, &home.machine_key().public).expect(0);
    }
    // The same again is the same digest.
    let again = home.vyr(["push", &reference, guest("hello").to_str().unwrap(), "--fallback", &layout]).expect(0);
    assert_eq!(again.stdout.trim(), by_digest);

    // Another machine gets of it what it runs, and the image when it has to.
    let other = Home::new();
    other.trust(&home.machine_key());
    let (report, output) = run(&other, 0, &[&by_digest]);
    assert_eq!((output.as_str(), &report["path"]), ("hello from wasm\n", &"wasm".into()));
    let shown = other.vyr(["inspect", &by_digest, "--output", "json"]).expect(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["image"]["stored"], false, "{shown}");
    let (report, output) = run(&other, 0, &["--path", "container", &by_digest]);
    assert_eq!((output.as_str(), &report["start_tier"]), ("hello from linux\n", &"S0".into()), "{report}");
    let (report, _) = run(&other, 0, &["--offline", "--path", "container", &by_digest]);
    assert_eq!(report["start_tier"], "S2", "{report}");
}

#[test]
fn the_image_is_taken_from_a_registry_and_from_an_index_there() {
    let (registry, home) = (Registry::start(), Home::new());
    let layout = shell(&home);
    let source = registry.reference("base", "v1");
    let copy = ["copy", "--insecure-policy", "--dest-tls-verify=false", &layout, &format!("docker://{source}")];
    home.tool("skopeo", copy).expect(0);
    let listed = registry.reference("base", "all");
    home.tool("crane", ["index", "append", "-m", &source, "-t", &listed]).expect(0);
    let wasm = needs_more(&home);
    for from in [&source, &listed] {
        let target = registry.reference("dual", "v1");
        let pushed = home.vyr(["push", &target, wasm.to_str().unwrap(), "--fallback", from]).expect(0);
        let other = Home::new();
        other.trust(&home.machine_key());
        let (report, output) = run(&other, 0, &[pushed.stdout.trim()]);
        assert_eq!((output.as_str(), &report["path"]), ("hello from linux\n", &"container".into()), "{report}");
        // Without a network, everything is there if it was pulled.
        let third = Home::new();
        third.trust(&home.machine_key());
        third.vyr(["pull", pushed.stdout.trim()]).expect(0);
        let (report, _) = run(&third, 0, &["--offline", pushed.stdout.trim()]);
        assert_eq!((&report["path"], &report["start_tier"]), (&"container".into(), &"S1".into()), "{report}");
    }
}

#[test]
fn what_is_no_image_is_refused_before_anything_is_pushed() {
    let (registry, home) = (Registry::start(), Home::new());
    let target = registry.reference("dual", "v1");
    let alone = home.vyr(["push", &registry.reference("wasm", "v1"), guest("hello").to_str().unwrap()]).expect(0);
    let pushed = home.vyr(["push", &target, guest("hello").to_str().unwrap(), "--fallback", alone.stdout.trim()]);
    pushed.expect(125).says(&["no image for Linux"]);
    let pushed = home.vyr(["push", &target, guest("hello").to_str().unwrap(), "--fallback", "oci:nowhere:v1"]);
    pushed.expect(127);
    home.vyr(["run", &target]).expect(127);
}

#[test]
fn inspect_and_gc_know_the_image() {
    let home = Home::new();
    let layout = image(
        &home,
        "named",
        &["--config.entrypoint", "/bin/id", "--config.user", "worker", "--config.workingdir", "/tmp"],
    );
    let (_, output) = run(&home, 0, &["--allow-unsigned", &layout]);
    assert_eq!(output, "uid=1234(worker) gid=5678(worker)\n");
    let shown = home.vyr(["inspect", &layout, "--output", "json"]).expect(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let image = &shown["image"];
    assert_eq!(
        (&image["user"], &image["working_dir"], &image["unpacked"]),
        (&"worker".into(), &"/tmp".into(), &true.into())
    );
    let snapshots = || walk(&home.vyr_home().join("snapshots"));
    assert!(snapshots() > 0);
    home.vyr(["gc", "--budget", "0"]).expect(0);
    assert_eq!(snapshots(), 0, "what was unpacked goes with its image");
}

/// How many regular files there are below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let Ok(listing) = std::fs::read_dir(folder) else { return 0 };
    listing
        .flatten()
        .map(|entry| {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() { walk(&entry.path()) } else { usize::from(kind.is_file()) }
        })
        .sum()
}
