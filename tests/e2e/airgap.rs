//! Without a network: runs of what the store holds, and bundles from one machine to another, good and bad.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vyr_guests::guest;

use crate::support::{Home, Output, Registry, run, sha256, tool};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const NAME: &str = "org.opencontainers.image.ref.name";

/// `vyr` where there is no interface but a loopback that is down.
fn cut_off(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.command(tool("unshare"));
    command.args(["--map-root-user", "--net", env!("CARGO_BIN_EXE_vyr")]).args(arguments);
    run(command, b"")
}

/// An artifact in the store of a home, signed with its machine key; its name and its digest.
fn pushed(registry: &Registry, home: &Home) -> (String, String) {
    let name = registry.reference("team/app", "v1");
    let wasm = guest("hello-p1");
    let said = home.vyr(["push", &name, wasm.to_str().unwrap()]).expect(0).stdout;
    (name, said.trim().rsplit_once('@').unwrap().1.to_owned())
}

#[test]
fn with_no_network_and_no_registry_a_run_by_digest_and_by_tag_goes_on() {
    let (mut registry, home) = (Registry::start(), Home::new());
    let (name, digest) = pushed(&registry, &home);
    let by_digest = registry.by_digest("team/app", &digest);
    registry.stop();
    for reference in [&by_digest, &digest] {
        let ran = cut_off(&home, &["run", reference]).expect(0);
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            ("hello from wasm\n", ""),
            "the long way, then the short"
        );
        assert_eq!(cut_off(&home, &["run", reference]).expect(0).stderr, "");
    }
    let ran = cut_off(&home, &["run", &name]).expect(0).says(&["could not be looked up", "last known digest", &digest]);
    assert_eq!(ran.stdout, "hello from wasm\n");
    cut_off(&home, &["run", "--pull", "always", &name]).expect(125).says(&["could not run"]);
    cut_off(&home, &["run", "--pull", "always", &by_digest]).expect(125);
    let other = registry.by_digest("team/app", &sha256(b"something else"));
    cut_off(&home, &["run", "--offline", &other]).expect(127).says(&["is not in the store", "vyr pull"]);
}

/// The system calls of a run that have to do with a network, by strace.
fn network_calls(home: &Home, arguments: &[&str]) -> Vec<String> {
    let log = home.work().join("strace.log");
    let mut command = home.command(tool("strace"));
    command.args(["-f", "-qq", "-e", "trace=network", "-e", "signal=none", "-o"]).arg(&log);
    command.arg(env!("CARGO_BIN_EXE_vyr")).args(arguments);
    assert_eq!(run(command, b"").expect(0).stdout, "hello from wasm\n");
    let calls = fs::read_to_string(&log).unwrap();
    // How a signal is told within the process: a pair of sockets that have no name and lead nowhere.
    let inside = |line: &&str| line.contains("socketpair(AF_UNIX") || line.contains("+++ exited");
    calls.lines().filter(|line| !inside(line)).map(str::to_owned).collect()
}

#[test]
fn a_run_by_digest_makes_no_network_call() {
    let (registry, home) = (Registry::start(), Home::new());
    let (name, digest) = pushed(&registry, &home);
    let by_digest = registry.by_digest("team/app", &digest);
    for reference in [&by_digest, &by_digest, &digest] {
        assert_eq!(network_calls(&home, &["run", reference]), Vec::<String>::new(), "{reference}");
    }
    // That the count counts.
    assert!(network_calls(&home, &["run", &name]).iter().any(|call| call.contains("connect(")));
}

/// A bundle with its files, to be changed.
struct Bundle {
    files: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    fn read(path: &Path) -> Self {
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
        });
        Self { files: files.collect() }
    }

    /// Any names at all, unlike `tar::Builder`, which refuses the tricks.
    fn write(&self, path: &Path) {
        let mut out = Vec::new();
        for (name, bytes) in &self.files {
            entry(&mut out, name, bytes, bytes.len() as u64, tar::EntryType::Regular);
        }
        out.extend([0; 1024]);
        fs::write(path, out).unwrap();
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&self.files.iter().find(|(name, _)| name == "index.json").unwrap().1).unwrap()
    }

    fn set_index(&mut self, index: &Value) {
        self.files.iter_mut().find(|(name, _)| name == "index.json").unwrap().1 = index.to_string().into_bytes();
    }

    fn add(&mut self, bytes: Vec<u8>) -> String {
        let digest = sha256(&bytes);
        self.files.push((format!("blobs/{}", digest.replace(':', "/")), bytes));
        digest
    }
}

fn entry(out: &mut Vec<u8>, name: &str, bytes: &[u8], size: u64, kind: tar::EntryType) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// What a store holds: the files in it.
fn blobs(home: &Home) -> usize {
    let mut found = 0;
    let mut queue = vec![home.store().join("blobs")];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { queue.push(entry.path()) } else { found += 1 }
        }
    }
    found
}

/// A bundle of one artifact, the home it was made in, and a second one that trusts its signer.
struct Scene {
    registry: Registry,
    first: Home,
    second: Home,
    name: String,
    digest: String,
    bundle: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (registry, first, second) = (Registry::start(), Home::new(), Home::new());
        let (name, digest) = pushed(&registry, &first);
        first.vyr(["save", &name, "-o", "bundle.tar"]).expect(0);
        second.trust(&first.machine_key());
        let bundle = first.work().join("bundle.tar");
        Self { registry, first, second, name, digest, bundle }
    }

    /// The bundle is refused with these words, and nothing of it is there afterwards.
    #[track_caller]
    fn refused(&self, path: &Path, code: i32, words: &[&str]) {
        let output =
            self.second.vyr(["load", path.to_str().unwrap()]).expect(code).says(words).says(&["could not load"]);
        assert_eq!(output.stdout, "");
        assert_eq!(blobs(&self.second), 0, "nothing was taken");
        assert_eq!(self.second.vyr(["artifacts", "--all", "--output", "json"]).expect(0).json(), json!([]));
        let _ = fs::remove_dir_all(self.second.vyr_home().join("store"));
        let _ = fs::remove_dir_all(self.second.vyr_home().join("db"));
    }

    fn changed(&self, change: impl FnOnce(&mut Bundle)) -> PathBuf {
        let mut bundle = Bundle::read(&self.bundle);
        change(&mut bundle);
        let path = self.second.work().join("changed.tar");
        bundle.write(&path);
        path
    }
}

#[test]
fn a_bundle_goes_to_a_machine_without_registry_and_runs_there() {
    let Scene { mut registry, first: _first, second, name, digest, bundle } = Scene::new();
    registry.stop();
    let loaded = second.vyr(["load", bundle.to_str().unwrap(), "--output", "json"]).expect(0).json();
    assert_eq!(loaded["artifacts"][0]["digest"], digest);
    assert_eq!(loaded["artifacts"][0]["acceptance"]["accepted"], "signed");
    for reference in [&name, &digest, &registry.by_digest("team/app", &digest)] {
        assert_eq!(cut_off(&second, &["run", reference]).expect(0).stdout, "hello from wasm\n", "{reference}");
    }
    // Twice is as good as once.
    second.vyr(["load", bundle.to_str().unwrap()]).expect(0);
}

#[test]
fn skopeo_and_oras_read_a_bundle() {
    let Scene { registry, first, name, digest, .. } = Scene::new();
    let from = format!("oci-archive:bundle.tar:{name}");
    let shown = first.tool("skopeo", ["inspect", "--raw", &from]).expect(0).stdout;
    assert_eq!(sha256(shown.as_bytes()), digest);
    // What was saved by the reference that a push prints, tag and digest, is found by that digest.
    let pushed = format!("{name}@{digest}");
    first.vyr(["save", &pushed, "-o", "pushed.tar"]).expect(0);
    let by_digest = format!("oci-archive:pushed.tar:{}", registry.by_digest("team/app", &digest));
    assert_eq!(sha256(first.tool("skopeo", ["inspect", "--raw", &by_digest]).expect(0).stdout.as_bytes()), digest);
    let found = first.tool("oras", ["discover", "--oci-layout", &format!("bundle.tar@{digest}")]).expect(0);
    assert!(found.stdout.contains("application/vnd.dev.sigstore.bundle.v0.3+json"), "{}", found.stdout);
    let copied = registry.reference("copied/by-oras", "v1");
    first
        .tool("oras", ["copy", "--recursive", "--from-oci-layout", &format!("bundle.tar@{digest}"), &copied])
        .expect(0);
    assert_eq!(first.crane_digest(&copied), digest);
    let verified = first.cosign_verify("cosign", &copied, &first.machine_key().public).expect(0);
    assert!(verified.stdout.contains(&digest) || verified.stderr.contains("verified"), "{}", verified.stderr);
}

#[test]
fn all_platforms_of_an_index_come_along_and_what_is_missing_is_named() {
    let (mut registry, home, other) = (Registry::start(), Home::new(), Home::new());
    let digest = home.push_dual(&registry, "team/dual", "v1", &guest("hello-p1"));
    let reference = registry.by_digest("team/dual", &digest);
    let key = home.key("key");
    home.cosign3_sign(&reference, &key);
    home.trust(&key);
    home.vyr(["run", &reference]).expect(0);
    // The run fetched what it ran; the other platform is still to be had, and then not.
    home.vyr(["save", &reference, "-o", "all.tar"]).expect(0);
    let all = Bundle::read(&home.work().join("all.tar"));
    let linux = home.crane_digest(&registry.reference("team/dual", "v1-linux"));
    assert!(all.files.iter().any(|(name, _)| name.ends_with(&linux[7..])), "the Linux image is in it");
    other.trust(&key);
    other.vyr(["load", home.work().join("all.tar").to_str().unwrap()]).expect(0);
    registry.stop();
    assert_eq!(cut_off(&other, &["run", &reference]).expect(0).stdout, "hello from wasm\n");

    let third = Home::new();
    let mut registry = Registry::start();
    let digest = third.push_dual(&registry, "team/dual", "v2", &guest("hello-p1"));
    let reference = registry.by_digest("team/dual", &digest);
    third.vyr(["run", "--allow-unsigned", &reference]).expect(0);
    registry.stop();
    third.vyr(["save", &reference, "-o", "some.tar"]).expect(127).says(&["for linux/", "lacks", "--this-platform"]);
    assert!(!third.work().join("some.tar").exists());
    third.vyr(["save", "--this-platform", &reference, "-o", "some.tar"]).expect(0);
    other
        .vyr(["load", "--allow-unsigned", third.work().join("some.tar").to_str().unwrap()])
        .expect(0)
        .says(&["another platform's", "--allow-unsigned"]);
}

#[test]
fn every_changed_byte_is_refused() {
    let scene = Scene::new();
    let count = Bundle::read(&scene.bundle).files.len();
    for at in 0..count {
        let mut named = String::new();
        let path = scene.changed(|bundle| {
            let (name, bytes) = &mut bundle.files[at];
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            named.clone_from(name);
        });
        let output = scene.second.vyr(["load", path.to_str().unwrap()]);
        assert!([125, 126, 127].contains(&output.status), "{named}: {} {}", output.status, output.stderr);
        assert_eq!((output.stdout.as_str(), blobs(&scene.second)), ("", 0), "{named}");
        if let Some(hex) = named.strip_prefix("blobs/sha256/") {
            output.expect(126).says(&["the digest of", hex]);
        }
    }
}

#[test]
fn each_bad_bundle_is_refused_in_words_of_its_own() {
    let scene = Scene::new();
    let whole = fs::read(&scene.bundle).unwrap();
    let wasm = sha256(&fs::read(guest("hello-p1")).unwrap());
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));

    let missing = scene.changed(|bundle| bundle.files.retain(|(name, _)| *name != blob(&wasm)));
    scene.refused(&missing, 127, &["names blob", &wasm]);
    let missing = scene.changed(|bundle| bundle.files.retain(|(name, _)| *name != blob(&scene.digest)));
    scene.refused(&missing, 127, &["holds no blob", &scene.digest]);

    let stranger = Home::new();
    stranger.vyr(["push", &scene.registry.reference("other/app", "v1"), guest("hello-p1").to_str().unwrap()]).expect(0);
    stranger.vyr(["save", &scene.registry.reference("other/app", "v1"), "-o", "bundle.tar"]).expect(0);
    scene.refused(&stranger.work().join("bundle.tar"), 126, &["by no key that", "vyr trust add", "--allow-unsigned"]);

    let cut = scene.second.work().join("cut.tar");
    // In the middle, in the last blob's content, in its header, and near the beginning.
    let last = Bundle::read(&scene.bundle).files.pop().unwrap().1.len();
    let start = whole.len() - 1024 - last.next_multiple_of(512);
    for end in [whole.len() / 2, start + last - 1, start - 200, 700, 100] {
        fs::write(&cut, &whole[..end]).unwrap();
        scene.refused(&cut, 125, &["tar"]);
    }

    for (name, words) in
        [("../evil", "outside the archive"), ("/tmp/evil", "at an absolute path"), ("a/../../b", "outside")]
    {
        let path = scene.changed(|bundle| bundle.files.push((name.to_owned(), b"x".to_vec())));
        scene.refused(&path, 126, &[words]);
    }
    let tricks = scene.second.work().join("tricks.tar");
    for (kind, words) in
        [(tar::EntryType::Symlink, "a link"), (tar::EntryType::Link, "a link"), (tar::EntryType::Fifo, "no plain file")]
    {
        let mut bytes = whole[..whole.len() - 1024].to_vec();
        entry(&mut bytes, "blobs/sha256/x", b"", 0, kind);
        bytes.extend([0; 1024]);
        fs::write(&tricks, bytes).unwrap();
        scene.refused(&tricks, 126, &[words]);
    }
    let twice = scene.changed(|bundle| bundle.files.push(bundle.files[1].clone()));
    scene.refused(&twice, 126, &["there twice"]);

    // A header that says 4 GiB, and a manifest that does.
    let mut bytes = whole[..whole.len() - 1024].to_vec();
    entry(&mut bytes, "blobs/sha256/large", b"little", 4 << 30, tar::EntryType::Regular);
    fs::write(&tricks, bytes).unwrap();
    scene.refused(&tricks, 125, &["ends in the middle of an entry"]);
    let claim = scene.changed(|bundle| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
            "layers": [{ "mediaType": "application/wasm", "digest": wasm, "size": 4_u64 << 30 }],
        });
        let manifest = manifest.to_string().into_bytes();
        let size = manifest.len();
        let digest = bundle.add(manifest);
        if !bundle.files.iter().any(|(name, _)| *name == blob(&sha256(b"{}"))) {
            bundle.add(b"{}".to_vec());
        }
        let mut index = bundle.index();
        index["manifests"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "mediaType": MANIFEST, "digest": digest, "size": size }));
        bundle.set_index(&index);
    });
    scene.refused(&claim, 126, &["has", "not 4294967296"]);
    let claim = scene.changed(|bundle| {
        let mut index = bundle.index();
        index["manifests"][0]["size"] = json!(4_u64 << 30);
        bundle.set_index(&index);
    });
    scene.refused(&claim, 126, &["not 4294967296"]);

    fs::write(&tricks, b"not a tar at all, but long enough to look at").unwrap();
    scene.refused(&tricks, 125, &["is not an OCI image layout"]);
    scene.second.vyr(["load", scene.bundle.to_str().unwrap()]).expect(0);
}

#[test]
fn one_refused_artifact_keeps_all_out_and_a_referrer_brings_no_name() {
    let scene = Scene::new();
    let plain = scene.registry.reference("plain/app", "v1");
    scene.first.oras_push(&plain, &guest("exit-p1"));
    scene.first.vyr(["pull", "--allow-unsigned", &plain]).expect(0);
    scene.first.vyr(["save", &scene.name, &plain, "-o", "both.tar"]).expect(0);
    let both = scene.first.work().join("both.tar");
    scene.refused(&both, 126, &["has no signature"]);

    // Unsigned, and named as the signed one: as an artifact it is judged, as something about the signed one it has no name.
    let stolen = scene.changed(|bundle| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/evil",
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
            "layers": [], "subject": { "mediaType": MANIFEST, "digest": scene.digest, "size": 453 },
        });
        let manifest = manifest.to_string().into_bytes();
        let size = manifest.len();
        let digest = bundle.add(manifest);
        if !bundle.files.iter().any(|(name, _)| *name == blob_of(&sha256(b"{}"))) {
            bundle.add(b"{}".to_vec());
        }
        let mut index = bundle.index();
        let named =
            json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "annotations": { NAME: scene.name } });
        index["manifests"].as_array_mut().unwrap().push(named);
        bundle.set_index(&index);
    });
    scene.second.vyr(["load", stolen.to_str().unwrap()]).expect(0);
    let ran = cut_off(&scene.second, &["run", &scene.name]).expect(0).says(&[&scene.digest]);
    assert_eq!(ran.stdout, "hello from wasm\n");

    scene.second.vyr(["load", "--allow-unsigned", both.to_str().unwrap()]).expect(0).says(&["loading although"]);
    let audit = fs::read_to_string(scene.second.vyr_home().join("audit.jsonl")).unwrap();
    assert!(audit.contains(r#""verb":"load""#), "{audit}");
    cut_off(&scene.second, &["run", &plain]).expect(126);
}

fn blob_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[test]
fn where_a_bundle_says_it_comes_from_lets_nothing_in() {
    let scene = Scene::new();
    let lax = scene.registry.reference("lax/app", "v1");
    scene.first.oras_push(&lax, &guest("hello-p1"));
    scene.first.vyr(["pull", "--allow-unsigned", &lax]).expect(0);
    scene.first.vyr(["save", &lax, "-o", "lax.tar"]).expect(0);
    let rule = format!(
        "version = 1\n[[rule]]\nrepository = '{0}/lax'\naction = 'accept-unsigned'\n[[rule]]\nrepository = '{0}/team'\n\
         action = 'reject'\n",
        scene.registry.host()
    );
    fs::write(scene.second.vyr_home().join("trust.toml"), rule).unwrap();
    scene.refused(&scene.first.work().join("lax.tar"), 126, &["can't prove that it comes from"]);
    let bundle = scene.bundle.to_str().unwrap();
    scene.second.vyr(["load", "--allow-unsigned", bundle]).expect(126).says(&["rejects"]);
    assert_eq!(blobs(&scene.second), 0);
}

#[test]
fn a_policy_in_a_bundle_is_shown_and_taken_only_when_asked() {
    let (mut registry, first, second) = (Registry::start(), Home::new(), Home::new());
    let (name, _) = pushed(&registry, &first);
    let key = first.key("compiler");
    first.vyr(["trust", "add", "--compiled", "--key", key.public.to_str().unwrap()]).expect(0);
    first.vyr(["save", &name, "-o", "bundle.tar", "--with-policy", "--with-code", "--key", "compiler.key"]).expect(0);
    registry.stop();
    let bundle = first.work().join("bundle.tar");
    let bundle = bundle.to_str().unwrap();
    second.vyr(["load", bundle]).expect(126).says(&["--take-policy"]);
    assert_eq!(blobs(&second), 0);
    assert!(!second.vyr_home().join("trust.toml").exists());

    second.vyr(["load", "--allow-unsigned", bundle]).expect(0).says(&[
        "not trusted",
        "the key sha256:",
        "COMPILED CODE",
    ]);
    assert!(!second.vyr_home().join("trust.toml").exists(), "never silently");
    cut_off(&second, &["run", &name]).expect(126);

    second.vyr(["load", "--take-policy", bundle]).expect(0).says(&["now trusted: the key sha256:", "COMPILED CODE"]);
    let ran = cut_off(&second, &["run", "--compiled-only", "--report", "report.json", &name]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n");
    let report: Value = serde_json::from_slice(&fs::read(second.work().join("report.json")).unwrap()).unwrap();
    assert_eq!((&report["code_origin"], &report["start_tier"]), (&json!("adopted"), &json!("S2")));
    let again = second.vyr(["load", "--take-policy", bundle]).expect(0);
    assert!(!again.stderr.contains("now trusted"), "there is nothing to add any more: {}", again.stderr);
}
