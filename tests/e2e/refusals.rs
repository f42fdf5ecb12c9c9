//! Each way of refusing, through the whole program: exit code 126, words of its own, nothing on stdout. Signatures whose
//! certificate expired need a private Sigstore; the trust module's own tests make one.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use vyr::oci::parse_digest;
use vyr::trust::{Algorithm, SignedSubject, SigningKey, sig_tag, sign};
use vyr_guests::guest;

use crate::support::{Home, Output, Registry, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// An artifact in a registry, and a home that trusts `key`.
struct Scene {
    registry: Registry,
    home: Home,
    key: SigningKey,
    digest: String,
    size: usize,
}

impl Scene {
    fn new() -> Self {
        let (registry, home) = (Registry::start(), Home::new());
        let digest = home.oras_push(&registry.reference("team/app", "v1"), &guest("hello-p1"));
        let key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
        home.write("key.pub", key.public_pem());
        home.vyr(["trust", "add", "--key", "key.pub"]).expect(0);
        let size = fs::read(registry.blob(&digest)).unwrap().len();
        Self { registry, home, key, digest, size }
    }

    fn reference(&self) -> String {
        self.registry.by_digest("team/app", &self.digest)
    }

    fn repository(&self) -> String {
        format!("{}/team/app", self.registry.host())
    }

    fn subject(&self, digest: &str) -> SignedSubject {
        SignedSubject { digest: parse_digest(digest).unwrap(), media_type: MANIFEST.into(), size: self.size as u64 }
    }

    fn put_blob(&self, bytes: &[u8]) {
        let path = self.home.write("blob", bytes);
        let target = format!("{}@{}", self.repository(), sha256(bytes));
        self.home.tool("oras", ["blob", "push", &target, path.to_str().unwrap()]).expect(0);
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) {
        self.home.write("manifest.json", bytes);
        let target = format!("{}{name}", self.repository());
        self.home.tool("oras", ["manifest", "push", "--media-type", MANIFEST, &target, "manifest.json"]).expect(0);
    }

    /// Puts a simple signature beside the artifact, of any payload.
    fn simple(&self, payload: &[u8], signature: &[u8]) {
        self.put_blob(b"{}");
        self.put_blob(payload);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
            "layers": [{
                "mediaType": SIMPLE, "digest": sha256(payload), "size": payload.len(),
                "annotations": { "dev.cosignproject.cosign/signature": STANDARD.encode(signature) },
            }],
        });
        let tag = sig_tag(&parse_digest(&self.digest).unwrap());
        self.put_manifest(&format!(":{tag}"), manifest.to_string().as_bytes());
    }

    /// The payload that cosign signs.
    fn payload(&self, digest: &str, repository: &str) -> Vec<u8> {
        json!({
            "critical": {
                "identity": { "docker-reference": repository }, "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string()
        .into_bytes()
    }

    fn simple_by(&self, key: &SigningKey, payload: &[u8]) {
        self.simple(payload, &key.sign(payload).unwrap());
    }

    /// Puts a referrer of the artifact with a bundle of any bytes; oras lists it.
    fn bundle(&self, bundle: &[u8]) {
        self.put_blob(bundle);
        self.carrier(json!([{ "mediaType": BUNDLE, "digest": sha256(bundle), "size": bundle.len() }]), self.size);
    }

    fn carrier(&self, layers: Value, subject_size: usize) {
        self.put_blob(b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
            "layers": layers,
            "subject": { "mediaType": MANIFEST, "digest": self.digest, "size": subject_size },
        });
        let manifest = manifest.to_string().into_bytes();
        self.put_manifest(&format!("@{}", sha256(&manifest)), &manifest);
    }

    /// The run is refused with these words, before and from the store.
    #[track_caller]
    fn refused(&self, words: &[&str]) -> Output {
        for offline in [false, true] {
            let reference = self.reference();
            let arguments: &[&str] = if offline { &["run", "--offline", &reference] } else { &["run", &reference] };
            // What can't be stored is only seen where it lies: then the store's own answer is that nothing signs it.
            let words = if offline { &[&*self.digest] } else { words };
            let output = self.home.vyr(arguments).expect(126).says(words).says(&["  why: ", "  next: "]);
            assert_eq!(output.stdout, "", "nothing ran");
        }
        self.home.vyr(["run", &self.reference()]).expect(126).says(words)
    }

    fn runs(&self) {
        assert_eq!(self.home.vyr(["run", &self.reference()]).expect(0).stdout, "hello from wasm\n");
    }
}

#[test]
fn what_this_makes_is_accepted_when_nothing_is_wrong() {
    let scene = Scene::new();
    scene.simple_by(&scene.key, &scene.payload(&scene.digest, &scene.repository()));
    scene.runs();
    let scene = Scene::new();
    let forms = sign(&scene.key, None, &scene.subject(&scene.digest), None).unwrap();
    scene.bundle(&forms.bundle.blobs[0].bytes);
    scene.runs();
}

/// Whoever may push to a repository can put anything beside a signature there.
#[test]
fn what_is_wrong_with_one_signature_keeps_nobody_from_using_another() {
    let scene = Scene::new();
    let layer = |bytes: &[u8], size: usize| json!({ "mediaType": BUNDLE, "digest": sha256(bytes), "size": size });
    let large = vec![7; 10 << 20];
    for bytes in [&b"size"[..], b"subject", b"large", &large] {
        scene.put_blob(bytes);
    }
    scene.carrier(json!([layer(b"size", 5)]), scene.size);
    scene.carrier(json!([layer(b"subject", 7)]), scene.size + 1);
    scene.carrier(json!([layer(b"large", 5), layer(&large, large.len())]), scene.size);
    scene.refused(&["a signature bundle of", "is malformed"]);
    let forms = sign(&scene.key, None, &scene.subject(&scene.digest), None).unwrap();
    scene.bundle(&forms.bundle.blobs[0].bytes);
    scene.runs();
    let large = sha256(&large);
    let in_the_store = scene.home.vyr_home().join("store/blobs/sha256").join(large.strip_prefix("sha256:").unwrap());
    assert!(!in_the_store.exists(), "nobody vouches for it");
}

#[test]
fn edits_of_the_policy_at_once_lose_none_and_keep_its_rights_and_its_place() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let home = Home::new();
    let (policy, real) = (home.vyr_home().join("trust.toml"), home.work().join("shared.toml"));
    home.vyr(["trust", "add", "--key", home.key("first").public.to_str().unwrap()]).expect(0);
    fs::copy(&policy, &real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(&policy).unwrap();
    std::os::unix::fs::symlink(&real, &policy).unwrap();
    let keys: Vec<String> = (0..6)
        .map(|n| {
            let key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
            home.write(&format!("{n}.pub"), key.public_pem()).to_str().unwrap().to_owned()
        })
        .collect();
    std::thread::scope(|scope| {
        for key in &keys {
            scope.spawn(|| home.vyr(["trust", "add", "--key", key]).expect(0));
        }
    });
    let rules = home.vyr(["trust", "ls", "--output", "json"]).expect(0).json();
    let listed: usize = rules.as_array().unwrap().iter().map(|r| r["keys"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(listed, 1 + keys.len(), "{rules}");
    assert!(fs::symlink_metadata(&policy).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn who_takes_the_last_signer_away_is_told_that_anything_runs_there_now() {
    let home = Home::new();
    let policy = home.vyr_home().join("trust.toml");
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(&policy, "version = 1\ndefault = \"accept-unsigned\"\n").unwrap();
    let words = ["nobody is trusted for r.example/team", "accepts what is unsigned"];
    let [first, second] = ["first", "second"].map(|name| home.key(name).public);
    for key in [&first, &second] {
        home.vyr(["trust", "add", "--key", key.to_str().unwrap(), "--repository", "r.example/team"]).expect(0);
    }
    let rules = home.vyr(["trust", "ls", "--output", "json"]).expect(0).json();
    let rule = rules.as_array().unwrap().iter().find(|rule| rule["repository"] == "r.example/team").unwrap();
    let ids: Vec<&str> = rule["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    let one = home.vyr(["trust", "rm", "--repository", "r.example/team", ids[0]]).expect(0);
    assert!(!one.stderr.contains("nobody is trusted"), "{}", one.stderr);
    home.vyr(["trust", "rm", "--repository", "r.example/team", ids[1]]).expect(0).says(&words);
    // Where what is unsigned is refused, nothing is said.
    fs::write(&policy, "version = 1\n").unwrap();
    home.vyr(["trust", "add", "--key", first.to_str().unwrap(), "--repository", "r.example/team"]).expect(0);
    let none = home.vyr(["trust", "rm", "--repository", "r.example/team"]).expect(0);
    assert!(!none.stderr.contains("nobody is trusted"), "{}", none.stderr);
}

#[test]
fn no_signature() {
    Scene::new().refused(&["has no signature", "vyr sign"]);
}

#[test]
fn a_valid_signature_of_another_digest() {
    let other = sha256(b"another");
    let scene = Scene::new();
    scene.simple_by(&scene.key, &scene.payload(&other, &scene.repository()));
    scene.refused(&["valid but for another digest", &other, &scene.digest]);
    let scene = Scene::new();
    let forms = sign(&scene.key, None, &scene.subject(&other), None).unwrap();
    scene.bundle(&forms.bundle.blobs[0].bytes);
    scene.refused(&["valid but for another digest", &other, &scene.digest]);
}

#[test]
fn a_signature_made_for_another_repository() {
    let scene = Scene::new();
    let elsewhere = format!("{}/other", scene.registry.host());
    scene.simple_by(&scene.key, &scene.payload(&scene.digest, &elsewhere));
    scene.refused(&["is for the repository", &elsewhere, &scene.repository()]);
}

#[test]
fn an_unknown_algorithm() {
    let scene = Scene::new();
    scene.simple_by(&scene.key, &scene.payload("md5:00", &scene.repository()));
    scene.refused(&["unknown algorithm", "md5:00"]);
}

#[test]
fn a_malformed_bundle() {
    for bundle in [&b"{\"mediaType\":"[..], b"{}", b"\xff\xfe"] {
        let scene = Scene::new();
        scene.bundle(bundle);
        scene.refused(&["signature bundle", "malformed"]);
    }
}

#[test]
fn a_huge_payload() {
    let scene = Scene::new();
    let payload = vec![b' '; 1 << 20];
    scene.simple_by(&scene.key, &payload);
    scene.refused(&["too large", "1048576 bytes"]);
}

#[test]
fn a_key_that_nobody_trusts() {
    let stranger = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
    let scene = Scene::new();
    scene.simple_by(&stranger, &scene.payload(&scene.digest, &scene.repository()));
    scene.refused(&["signed, but by no key that", "vyr trust add"]);
}

#[test]
fn an_altered_signature() {
    // The bundle names its key, so that it's known whose signature was altered.
    let scene = Scene::new();
    let forms = sign(&scene.key, None, &scene.subject(&scene.digest), None).unwrap();
    let mut bundle: Value = serde_json::from_slice(&forms.bundle.blobs[0].bytes).unwrap();
    let signature = &mut bundle["dsseEnvelope"]["signatures"][0]["sig"];
    let mut bytes = STANDARD.decode(signature.as_str().unwrap()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    *signature = STANDARD.encode(bytes).into();
    scene.bundle(bundle.to_string().as_bytes());
    scene.refused(&["does not verify", "altered or damaged"]);

    let scene = Scene::new();
    let payload = scene.payload(&scene.digest, &scene.repository());
    let mut signature = scene.key.sign(&payload).unwrap();
    *signature.last_mut().unwrap() ^= 1;
    scene.simple(&payload, &signature);
    scene.refused(&["signed, but by no key that"]);
}

#[test]
fn a_rule_that_rejects_is_not_overruled() {
    let scene = Scene::new();
    scene.simple_by(&scene.key, &scene.payload(&scene.digest, &scene.repository()));
    scene.runs();
    let policy = scene.home.vyr_home().join("trust.toml");
    let mut text = fs::read_to_string(&policy).unwrap();
    text.push_str(&format!("\n[[rule]]\nrepository = \"{}/team\"\naction = \"reject\"\n", scene.registry.host()));
    fs::write(policy, text).unwrap();
    scene.refused(&["of the trust policy rejects", "vyr trust ls"]);
    let output = scene.home.vyr(["run", "--allow-unsigned", &scene.reference()]).expect(126).says(&["rejects"]);
    assert_eq!(output.stdout, "");
    assert!(!scene.home.vyr_home().join("audit.jsonl").exists(), "nothing was overruled");
}

#[test]
fn allow_unsigned_is_recorded() {
    let scene = Scene::new();
    let (reference, audit) = (scene.reference(), scene.home.vyr_home().join("audit.jsonl"));
    for count in 1..=2 {
        scene.home.vyr(["run", "--allow-unsigned", &reference]).expect(0);
        let text = fs::read_to_string(&audit).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|l| serde_json::from_str(l).expect("one JSON document a line")).collect();
        assert_eq!(lines.len(), count, "{text}");
        let line = lines.last().unwrap();
        assert_eq!((&line["digest"], &line["reference"]), (&json!(scene.digest), &json!(reference)));
        assert!(line["refusal"].as_str().unwrap().contains("has no signature"), "{line}");
    }
}

#[test]
fn files_that_others_may_change_decide_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::new();
    let policy = scene.home.vyr_home().join("trust.toml");
    fs::write(&policy, "version = 1\ndefault = \"accept-unsigned\"\n").unwrap();
    let set = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (mode, who) in [(0o660, "its group"), (0o646, "everybody")] {
        set(&policy, mode);
        let next = format!("chmod go-w {}", policy.display());
        scene.home.vyr(["run", &scene.reference()]).expect(126).says(&[who, &next]);
        scene.home.vyr(["trust", "ls"]).expect(126).says(&[who]);
    }
    set(&policy, 0o644);
    scene.home.vyr(["run", &scene.reference()]).expect(0);
    // Only root can give a file away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&policy, Some(12345), None).unwrap();
        scene.home.vyr(["run", &scene.reference()]).expect(126).says(&["belongs to user 12345"]);
        std::os::unix::fs::chown(&policy, Some(0), None).unwrap();
    }
    // Nor does a key's file that others may write say whose signature counts.
    let key = scene.home.write("named.pub", scene.key.public_pem());
    scene.simple_by(&scene.key, &scene.payload(&scene.digest, &scene.repository()));
    fs::write(&policy, format!("version = 1\n[[rule]]\nkeys = [{key:?}]\n")).unwrap();
    set(&key, 0o646);
    scene.home.vyr(["run", &scene.reference()]).expect(126).says(&["everybody"]);
    set(&key, 0o644);
    scene.runs();
    // A node is not started with tokens that others may add to.
    scene.home.vyr(["token", "add", "ci"]).expect(0);
    let tokens = scene.home.vyr_home().join("tokens");
    set(&tokens, 0o620);
    let words = ["serve", "--listen", "127.0.0.1:0", "--token-file", tokens.to_str().unwrap()];
    scene.home.vyr(words).expect(2).says(&["its group", "chmod go-w"]);
}
