//! Compiled code that comes with an artifact: whose is let in, and what becomes of every other.

use std::fs;

use serde_json::{Value, json};
use vyr::oci::parse_digest;
use vyr::trust::{Algorithm, SignedSubject, SigningKey, sign};
use vyr_guests::guest;

use crate::support::{Home, Node, Output, Registry, flip_a_bit, sha256, spec};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A report of a run that ended well.
#[track_caller]
fn report(home: &Home, arguments: &[&str]) -> Value {
    let words: Vec<&str> = ["run", "--report", "report.json"].iter().chain(arguments).copied().collect();
    assert_eq!(home.vyr(words).expect(0).stdout, "hello from wasm\n");
    serde_json::from_slice(&fs::read(home.work().join("report.json")).unwrap()).unwrap()
}

/// A machine that compiles, and a small one that trusts its artifacts, and its compiled code as `right`.
struct Scene {
    registry: Registry,
    builder: Home,
    small: Home,
    reference: String,
    right: SigningKey,
}

impl Scene {
    fn new() -> Self {
        let (registry, builder, small) = (Registry::start(), Home::new(), Home::new());
        let right = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
        builder.write("right.key", right.to_encrypted_pem(b"").unwrap().as_bytes());
        let name = registry.reference("team/app", "v1");
        let pushed = builder.vyr(["push", &name, guest("hello-p1").to_str().unwrap()]).expect(0).stdout;
        small.trust(&builder.machine_key());
        small.write("right.pub", right.public_pem());
        let reference = registry.by_digest("team/app", pushed.trim().rsplit_once('@').unwrap().1);
        Self { registry, builder, small, reference, right }
    }

    fn give_the_right(&self) {
        self.small.vyr(["trust", "add", "--compiled", "--key", "right.pub"]).expect(0);
    }

    /// Compiles on the one machine; what `vyr compile` says.
    fn compile(&self, more: &[&str]) -> Value {
        let words: Vec<&str> = ["compile", &self.reference, "--output", "json"].iter().chain(more).copied().collect();
        self.builder.vyr(words).expect(0).json()
    }
}

#[test]
fn with_the_right_the_small_machine_never_compiles_and_without_it_again() {
    let scene = Scene::new();
    scene.give_the_right();
    let made = scene.compile(&["--push", "--key", "right.key"]);
    assert_eq!(made["key"], scene.right.key_id());
    let small = &scene.small;
    let first = report(small, &["--compiled-only", &scene.reference]);
    assert_eq!((&first["start_tier"], &first["code_origin"]), (&json!("S0"), &json!("adopted")));
    let second = report(small, &["--compiled-only", "--offline", &scene.reference]);
    assert_eq!((&second["start_tier"], &second["code_origin"]), (&json!("S2"), &json!("adopted")));

    // What was let in under the policy that had the right isn't there under one that doesn't.
    small.vyr(["trust", "rm", "--compiled"]).expect(0);
    let words = &["nothing is compiled here", "nobody whom the trust policy trusts with compiled code"];
    small.vyr(["run", "--compiled-only", "--offline", &scene.reference]).expect(126).says(words);
    let third = report(small, &["--offline", &scene.reference]);
    assert_eq!((&third["start_tier"], &third["code_origin"]), (&json!("S1"), &json!("compiled")));
    // What it compiled itself is as good.
    assert_eq!(report(small, &["--compiled-only", "--offline", &scene.reference])["code_origin"], "cached");
}

#[test]
fn compiled_code_is_as_any_referrer_to_other_tools() {
    let scene = Scene::new();
    let made = scene.compile(&["--push", "--key", "right.key"]);
    let found = scene.builder.tool("oras", ["discover", "--format", "json", &scene.reference]).expect(0);
    assert!(found.stdout.contains("application/vnd.vyr.compiled.v0"), "{}", found.stdout);
    let code = scene.registry.by_digest("team/app", made["digest"].as_str().unwrap());
    scene.builder.write("right.pub", scene.right.public_pem());
    let public = scene.builder.work().join("right.pub");
    for cosign in ["cosign", "cosign-older"] {
        scene.builder.cosign_verify(cosign, &code, &public).expect(0);
    }
    scene.builder.vyr(["compile", "oci:nowhere", "--push"]).expect(2).says(&["names no registry"]);
    // What wouldn't run isn't compiled either.
    let plain = scene.registry.reference("plain/app", "v1");
    scene.builder.oras_push(&plain, &guest("hello-p1"));
    scene.builder.vyr(["compile", &plain]).expect(126).says(&["has no signature"]);
}

/// The genuine compiled code, to be forged.
struct Forge<'a> {
    scene: &'a Scene,
    manifest: Value,
    config: Value,
    code: Vec<u8>,
}

impl<'a> Forge<'a> {
    fn of(scene: &'a Scene) -> Self {
        let made = scene.compile(&["--key", "right.key"]);
        let blob = |digest: &Value| {
            let place = digest.as_str().unwrap().replace(':', "/");
            fs::read(scene.builder.store().join("blobs").join(place)).unwrap()
        };
        let mut manifest: Value = serde_json::from_slice(&blob(&made["digest"])).unwrap();
        let config = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
        let packed = blob(&manifest["layers"][0]["digest"]);
        // To be altered where it is code, and not where it is compressed.
        let code = zstd::stream::decode_all(&*packed).unwrap();
        assert!(packed.len() < code.len() / 2, "{} bytes of {}", packed.len(), code.len());
        manifest["layers"][0]["mediaType"] = json!("application/vnd.vyr.compiled.code.v0");
        Self { scene, manifest, config, code }
    }

    /// A small machine that has the artifact, and beside it this code, signed by `key`; the code's digest.
    fn put(&self, key: Option<&SigningKey>) -> (Home, String) {
        let small = Home::new();
        small.trust(&self.scene.builder.machine_key());
        small.write("right.pub", self.scene.right.public_pem());
        small.vyr(["trust", "add", "--compiled", "--key", "right.pub"]).expect(0);
        small.vyr(["pull", &self.scene.reference]).expect(0);
        let config = self.config.to_string().into_bytes();
        let mut manifest = self.manifest.clone();
        manifest["config"]["digest"] = json!(sha256(&config));
        manifest["config"]["size"] = json!(config.len());
        manifest["layers"][0]["digest"] = json!(sha256(&self.code));
        manifest["layers"][0]["size"] = json!(self.code.len());
        let manifest = manifest.to_string().into_bytes();
        let digest = sha256(&manifest);
        let files = [("m.json", &manifest), ("config", &config), ("code", &self.code)];
        files.iter().for_each(|(name, bytes)| drop(small.write(name, bytes)));
        let mut words = vec!["put", "--manifest", "m.json", "--blob", "config", "--blob", "code"];
        if let Some(key) = key {
            let subject = SignedSubject {
                digest: parse_digest(&digest).unwrap(),
                media_type: MANIFEST.into(),
                size: manifest.len() as u64,
            };
            small.write("bundle", &sign(key, None, &subject, None).unwrap().bundle.blobs[0].bytes);
            words.extend(["--signature", "bundle"]);
        }
        small.vyr(words).expect(0);
        (small, digest)
    }

    /// It isn't used, in these words, and the machine compiles for itself.
    #[track_caller]
    fn refused(&self, small: &Home, words: &[&str]) -> Output {
        let reference = &self.scene.reference;
        small
            .vyr(["run", "--offline", "--compiled-only", reference])
            .expect(126)
            .says(words)
            .says(&["--compiled-only"]);
        let ran = small.vyr(["run", "--offline", "--report", "report.json", reference]).expect(0).says(words);
        assert!(ran.stderr.contains("compiling here"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "hello from wasm\n");
        let report: Value = serde_json::from_slice(&fs::read(small.work().join("report.json")).unwrap()).unwrap();
        assert_eq!(report["code_origin"], "compiled");
        ran
    }
}

#[test]
fn the_genuine_code_is_adopted_from_the_store_too() {
    let scene = Scene::new();
    let (small, _) = Forge::of(&scene).put(Some(&scene.right));
    assert_eq!(report(&small, &["--offline", "--compiled-only", &scene.reference])["code_origin"], "adopted");
}

#[test]
fn code_for_another_cpu_or_version_is_compiled_here_instead() {
    let scene = Scene::new();
    let mut forge = Forge::of(&scene);
    forge.config["fingerprint"] = json!("0".repeat(64));
    forge.config["wasmtime"] = json!("47.0.1");
    forge.config["target"] = json!("riscv64-linux-gnu");
    let (small, digest) = forge.put(Some(&scene.right));
    forge.refused(
        &small,
        &[&digest, "is for Wasmtime 47.0.1 on riscv64-linux-gnu", "000000000000…", "this is Wasmtime"],
    );
}

#[test]
fn code_that_only_says_it_is_for_this_machine_is_refused_by_the_runtime() {
    let scene = Scene::new();
    let mut forge = Forge::of(&scene);
    // The version that the runtime itself wrote into its code.
    let own = vyr::engine::WASMTIME.split('.').next().unwrap().as_bytes();
    let places: Vec<usize> =
        forge.code.windows(own.len()).enumerate().filter(|(_, w)| *w == own).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "its code names its version");
    places.iter().for_each(|at| forge.code[*at] ^= 1);
    let (small, _) = forge.put(Some(&scene.right));
    forge.refused(&small, &["the compiled code can't be used"]);
}

#[test]
fn code_of_another_wasm_is_refused() {
    let scene = Scene::new();
    let mut forge = Forge::of(&scene);
    forge.config["wasm"] = json!(sha256(b"another"));
    let (small, digest) = forge.put(Some(&scene.right));
    forge.refused(&small, &[&digest, "was made from", &sha256(b"another")]);
}

#[test]
fn code_by_an_ordinary_key_a_stranger_or_nobody_is_refused_each_in_its_words() {
    let scene = Scene::new();
    let forge = Forge::of(&scene);
    let pem = fs::read_to_string(scene.builder.machine_key().private).unwrap();
    let ordinary = SigningKey::from_pem(&pem, None).unwrap();
    let (small, digest) = forge.put(Some(&ordinary));
    let words = [&*digest, "is compiled code, signed by", "trusts with artifacts but not with compiled code"];
    forge.refused(&small, &words);

    let stranger = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let (small, digest) = forge.put(Some(&stranger));
    forge.refused(&small, &[&digest, "nobody whom the trust policy trusts with compiled code signed it", "by no key"]);

    let (small, digest) = forge.put(None);
    forge.refused(&small, &[&digest, "nobody whom the trust policy trusts", "has no signature"]);
}

#[test]
fn code_that_cannot_be_unpacked_is_refused() {
    let scene = Scene::new();
    let mut forge = Forge::of(&scene);
    forge.manifest["layers"][0]["mediaType"] = json!("application/vnd.vyr.compiled.code.v0+zstd");
    let (small, digest) = forge.put(Some(&scene.right));
    forge.refused(&small, &[&digest, "can't be read: it can't be unpacked"]);
}

#[test]
fn altered_code_is_refused() {
    let scene = Scene::new();
    let forge = Forge::of(&scene);
    let (small, _) = forge.put(Some(&scene.right));
    let code = sha256(&forge.code);
    flip_a_bit(&small.store().join("blobs").join(code.replace(':', "/")));
    forge.refused(&small, &["the digest of", &code[7..]]);

    // Signed, but no code at all.
    let forge = Forge { code: b"\x7fELF, or so it says".to_vec(), ..forge };
    let (small, _) = forge.put(Some(&scene.right));
    forge.refused(&small, &["the compiled code can't be used"]);
}

#[tokio::test]
async fn a_node_that_compiles_nothing_runs_what_comes_compiled() {
    let scene = Scene::new();
    let node = Node::start(&scene.small, &["--compiled-only"]);
    let mut client = node.connect().await;
    let task = client.run(spec(&scene.reference, &[])).await;
    assert!(format!("{task:?}").contains("nothing is compiled here"), "{task:?}");
    scene.give_the_right();
    scene.compile(&["--push", "--key", "right.key"]);
    scene.small.vyr(["pull", &scene.reference]).expect(0);
    let task = client.run(spec(&scene.reference, &[])).await;
    assert_eq!(client.stdout(&task.id).await, "hello from wasm\n", "{task:?}");
}
