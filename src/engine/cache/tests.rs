use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::engine::EngineOptions;
use crate::oci;

const KEY: [u8; 32] = [7; 32];

struct Setup {
    dir: tempfile::TempDir,
    engine: Engine,
    wasm: Vec<u8>,
    digest: Digest,
}

impl Setup {
    fn of(wat: &str) -> Self {
        let wasm = wat::parse_str(wat).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            engine: Engine::new(&EngineOptions::default()).unwrap(),
            digest: oci::sha256(&wasm),
            wasm,
        }
    }

    fn module() -> Self {
        Self::of(r#"(module (func (export "_start")))"#)
    }

    fn cache(&self) -> CodeCache {
        CodeCache::open(self.dir.path(), &KEY)
    }

    fn start(&self) -> Tier {
        let cached =
            self.cache().get_or_compile(&self.engine, &self.digest, || Ok::<_, StartError>(&self.wasm)).unwrap();
        assert_eq!(cached.compiled.kind(), Kind::of(&self.wasm).unwrap());
        cached.tier
    }

    fn paths(&self) -> Paths {
        self.cache().paths(&self.engine, &self.digest)
    }

    /// Waits until the entry's identity is settled, and starts once so that it's sealed again.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(120));
        assert_eq!(self.start(), Tier::S2);
        let paths = self.paths();
        let seal = fs::read(&paths.seal).unwrap();
        let seal = Seal::from_bytes(&seal, &self.cache().key, &paths.subject, self.engine.fingerprint())
            .expect("a valid seal");
        assert!(
            seal.covers(&Identity::of(&open(&paths.code).unwrap()).unwrap()),
            "the fast path is taken from here on"
        );
    }
}

/// Flips a byte in the middle and puts the modification time back.
fn flip(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    let mut byte = [0];
    let at = before.len() / 2;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = file.metadata().unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
}

#[test]
fn a_second_start_finds_the_code() {
    for wat in [r#"(module (func (export "_start")))"#, "(component)"] {
        let setup = Setup::of(wat);
        assert_eq!(setup.start(), Tier::S1);
        assert_eq!(setup.start(), Tier::S2, "at once, by its content");
        setup.settle();
        assert_eq!(setup.start(), Tier::S2, "later, by its identity");
        let paths = setup.paths();
        assert_eq!(fs::metadata(&paths.code).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&paths.folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&paths.folder).unwrap().count(), 2, "no temporary file is left");
    }
}

#[test]
fn altered_code_is_compiled_anew() {
    for settled in [false, true] {
        let setup = Setup::module();
        assert_eq!(setup.start(), Tier::S1);
        if settled {
            setup.settle();
        }
        let paths = setup.paths();
        let good = fs::read(&paths.code).unwrap();
        flip(&paths.code);
        assert!(setup.cache().get(&setup.engine, &setup.digest).is_none());
        assert_eq!(setup.start(), Tier::S1);
        assert_eq!(fs::read(&paths.code).unwrap(), good);
        assert_eq!(setup.start(), Tier::S2);
    }
}

#[test]
fn an_altered_seal_is_not_believed() {
    let setup = Setup::module();
    setup.start();
    flip(&setup.paths().seal);
    assert_eq!(setup.start(), Tier::S1);
}

#[test]
fn truncated_code_and_seals_are_compiled_anew() {
    let setup = Setup::module();
    setup.start();
    setup.settle();
    for path in [setup.paths().code, setup.paths().seal] {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() - 1).unwrap();
        assert_eq!(setup.start(), Tier::S1, "{}", path.display());
        fs::write(&path, b"").unwrap();
        assert_eq!(setup.start(), Tier::S1, "{}", path.display());
        fs::remove_file(&path).unwrap();
        assert_eq!(setup.start(), Tier::S1, "{}", path.display());
        assert_eq!(setup.start(), Tier::S2);
    }
}

#[test]
fn another_nodes_entry_is_compiled_anew() {
    let setup = Setup::module();
    let other = CodeCache::open(setup.dir.path(), &[8; 32]);
    other.get_or_compile(&setup.engine, &setup.digest, || Ok::<_, StartError>(&setup.wasm)).unwrap();
    assert!(other.get(&setup.engine, &setup.digest).is_some());
    assert_eq!(setup.start(), Tier::S1);
    assert_eq!(setup.start(), Tier::S2);
}

#[test]
fn an_entry_under_another_name_is_not_taken() {
    // Both of the other Wasm's files, put where this one's belong.
    let (setup, evil) = (Setup::module(), Setup::of(r#"(module (func (export "_start") unreachable))"#));
    let cache = setup.cache();
    cache.get_or_compile(&setup.engine, &evil.digest, || Ok::<_, StartError>(&evil.wasm)).unwrap();
    let (from, to) = (cache.paths(&setup.engine, &evil.digest), setup.paths());
    fs::copy(from.code, to.code).unwrap();
    fs::copy(from.seal, to.seal).unwrap();
    assert!(cache.get(&setup.engine, &setup.digest).is_none());
}

#[test]
fn an_entry_of_another_engine_is_not_taken() {
    let setup = Setup::module();
    setup.start();
    let paths = setup.paths();
    let seal = fs::read(&paths.seal).unwrap();
    let key = &setup.cache().key;
    assert!(Seal::from_bytes(&seal, key, &paths.subject, setup.engine.fingerprint()).is_some());
    assert!(Seal::from_bytes(&seal, key, &paths.subject, &"0".repeat(64)).is_none());
}

#[test]
fn files_that_others_may_write_are_not_taken() {
    let setup = Setup::module();
    setup.start();
    let code = setup.paths().code;
    fs::set_permissions(&code, fs::Permissions::from_mode(0o620)).unwrap();
    assert_eq!(setup.start(), Tier::S1);
    assert_eq!(setup.start(), Tier::S2);
    // A link to a file of ours is not one of ours either.
    let elsewhere = setup.dir.path().join("elsewhere");
    fs::copy(&code, &elsewhere).unwrap();
    fs::remove_file(&code).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &code).unwrap();
    assert_eq!(setup.start(), Tier::S1);
}

#[test]
fn without_a_place_to_write_it_still_runs() {
    let setup = Setup::module();
    let file = setup.dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let cache = CodeCache::open(file.join("below"), &KEY);
    for _ in 0..2 {
        let cached = cache.get_or_compile(&setup.engine, &setup.digest, || Ok::<_, StartError>(&setup.wasm)).unwrap();
        assert_eq!(cached.tier, Tier::S1);
    }
    assert!(cache.entries().is_err() || cache.entries().unwrap().is_empty());
}

#[test]
fn pruning_removes_the_longest_unused_first() {
    let setup = Setup::module();
    let cache = setup.cache();
    let others: Vec<_> = (0..3)
        .map(|n| {
            let wasm = wat::parse_str(format!(r#"(module (func (export "_start")) (func (export "f{n}")))"#)).unwrap();
            let digest = oci::sha256(&wasm);
            cache.get_or_compile(&setup.engine, &digest, || Ok::<_, StartError>(&wasm)).unwrap();
            let seal = File::open(cache.paths(&setup.engine, &digest).seal).unwrap();
            seal.set_modified(SystemTime::now() - Duration::from_secs(86_400 * (3 - n))).unwrap();
            digest
        })
        .collect();
    let entries = cache.entries().unwrap();
    assert_eq!(entries.len(), 3);
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    // A use makes the oldest the newest.
    assert!(cache.get(&setup.engine, &others[0]).is_some());
    let folder = cache.paths(&setup.engine, &others[0]).folder;
    let litter = folder.join(".tmpleft");
    fs::write(&litter, b"x").unwrap();
    File::open(&litter).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    let pruned = cache.prune(total - 1).unwrap();
    assert_eq!(pruned.removed, 1);
    assert_eq!(pruned.kept + pruned.freed, total);
    assert!(!litter.exists());
    assert!(cache.entry(&setup.engine, &others[0]).is_some());
    assert!(cache.entry(&setup.engine, &others[1]).is_none());
    assert!(cache.entry(&setup.engine, &others[2]).is_some());
    assert_eq!(cache.prune(0).unwrap().kept, 0);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

/// Code that somebody with the right to it vouches for.
fn vouched(precompiled: Precompiled) -> Native<Precompiled> {
    use crate::trust::{
        Algorithm, SignedSubject, SigningKey, TrustPolicy, material_from_referrer, sign, verify_native,
    };
    let key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
    let digest = oci::sha256(&precompiled.code);
    let subject = SignedSubject { digest: digest.clone(), media_type: oci::media::MANIFEST.into(), size: 1 };
    let forms = sign(&key, None, &subject, None).unwrap();
    let material = material_from_referrer(&forms.bundle.manifest, forms.bundle.blobs[0].bytes.clone()).unwrap();
    let mut policy = TrustPolicy::default();
    policy.add_compiled_key("", &key.public_pem()).unwrap();
    verify_native(precompiled, &policy, None, None, &digest, &[material]).unwrap()
}

#[test]
fn adopted_code_is_found_under_the_policy_that_let_it_in_and_no_other() {
    let setup = Setup::module();
    let (kind, code) = setup.engine.compile(&setup.wasm).unwrap();
    let fingerprint = setup.engine.fingerprint().to_owned();
    let of = |fingerprint: &str, wasm: &Digest, code: &[u8]| {
        vouched(Precompiled { kind, fingerprint: fingerprint.to_owned(), wasm: wasm.clone(), code: code.to_vec() })
    };
    let cache = setup.cache();
    let adopt = |native: &Native<Precompiled>| cache.adopt(&setup.engine, &setup.digest, "policy", native);
    for (native, words) in [
        (of(&"0".repeat(64), &setup.digest, &code), "another version"),
        (of(&fingerprint, &oci::sha256(b"other"), &code), "compiled from"),
        (of(&fingerprint, &setup.digest, b"not code"), "can't be used"),
    ] {
        let error = adopt(&native).unwrap_err();
        assert!(matches!(error, StartError::Foreign { .. }) && error.to_string().contains(words), "{error}");
        assert_eq!(cache.entries().unwrap(), [], "nothing is kept of it");
    }
    assert!(cache.adopted(&setup.engine, &setup.digest, "policy").is_none());
    adopt(&of(&fingerprint, &setup.digest, &code)).unwrap();
    assert!(cache.adopted(&setup.engine, &setup.digest, "policy").is_some());
    assert!(cache.adopted(&setup.engine, &setup.digest, "another policy").is_none());
    assert!(cache.get(&setup.engine, &setup.digest).is_none(), "this node didn't compile it");
    assert_eq!(setup.start(), Tier::S1);
}

#[test]
fn what_never_fits_into_the_pool_is_told_from_what_it_has_not() {
    let pooled = Engine::new(&EngineOptions { pooling: true, max_instances: 2, ..EngineOptions::default() }).unwrap();
    let refused = |wat: &str| {
        let setup = Setup::of(wat);
        let wasm = &setup.wasm;
        setup.cache().get_or_compile(&pooled, &setup.digest, || Ok::<_, StartError>(wasm)).map(|_| ())
    };
    let shared = refused(r#"(module (memory 1 1 shared) (func (export "_start")))"#);
    assert!(matches!(shared, Err(StartError::Unsupported { .. })), "{shared:?}");
    let wide = refused(r#"(module (table 2000000 funcref) (func (export "_start")))"#);
    let expected =
        matches!(wide, Err(StartError::Limit { what: "table elements", needed: 2_000_000, limit: 1_000_000 }));
    assert!(expected, "{wide:?}");
}
