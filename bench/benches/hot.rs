//! Microbenchmarks of the steps between a submit and a guest's first instruction, and of what is done once for an artifact.
//! Criterion holds each run against the last one of the same machine; `instructions` does the same by counting, which a busy
//! machine doesn't disturb.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark: what fails here is to be seen at once")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use vyr::engine::{CancellationToken, CodeCache, Engine, EngineOptions, Outcome, RunSpec};
use vyr::error::Error;
use vyr::oci::{ArtifactRef, sha256};
use vyr::trust::{
    Algorithm, Override, SignatureMaterial, SignedSubject, SigningKey, TrustPolicy, sign, sign_statement, verify,
};

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    text(&mut criterion);
    trust(&mut criterion);
    engine(&mut criterion);
    criterion.final_summary();
}

fn text(criterion: &mut Criterion) {
    let reference = format!("registry.example:5000/team/guest@{}", sha256(b"guest"));
    criterion.bench_function("reference: parse", |b| {
        b.iter(|| black_box(&reference).parse::<ArtifactRef>().unwrap());
    });
    let mebibyte = vec![7; 1 << 20];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("1 MiB", |b| b.iter(|| sha256(black_box(&mebibyte))));
    group.finish();
}

fn trust(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
    std::fs::write(folder.path().join("signer.pub"), key.public_pem()).unwrap();
    let text = "version = 1\n\n[[rule]]\nrepository = \"registry.example\"\nkeys = [\"signer.pub\"]\n".to_owned();
    criterion.bench_function("policy: parse", |b| {
        b.iter_batched(
            || text.clone(),
            |text| TrustPolicy::parse(text, black_box(folder.path())).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let policy = TrustPolicy::parse(text.clone(), folder.path()).unwrap();
    let digest = sha256(b"manifest");
    let subject = SignedSubject { digest: digest.clone(), media_type: "application/json".into(), size: 8 };
    let forms = sign(&key, None, &subject, None).unwrap();
    criterion.bench_function("signature: made, both forms", |b| {
        b.iter(|| sign(&key, None, black_box(&subject), None).unwrap());
    });
    let bundle = forms.bundle.blobs.iter().max_by_key(|blob| blob.bytes.len()).unwrap().bytes.clone();
    let material = [SignatureMaterial::Bundle(bundle)];
    criterion.bench_function("signature: verified, a bundle by a key", |b| {
        b.iter(|| {
            let where_from = Some("registry.example/team/guest");
            verify(&policy, None, where_from, black_box(&digest), &material, Override::None).unwrap()
        });
    });
    let node = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let statement = vec![b'x'; 2048];
    criterion.bench_function("receipt: signed, 2 KiB", |b| {
        b.iter(|| sign_statement(&node, black_box(&statement)).unwrap());
    });
}

fn engine(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::new(&EngineOptions { pooling: true, ..EngineOptions::default() }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cancel = CancellationToken::new();
    for (guest, name) in [("hello-p1", "module"), ("hello", "component")] {
        let cache = CodeCache::open(folder.path().join(name), &[7; 32]);
        let bytes = guest_bytes(Path::new(&vyr_guests::guest(guest)));
        let digest = sha256(&bytes);
        cache.get_or_compile(&engine, &digest, || Ok::<_, Error>(&bytes)).unwrap();
        // The first load after compiling hashes the code: its change time is too near to the seal.
        std::thread::sleep(Duration::from_millis(100));
        let load = || cache.get(&engine, &digest).unwrap();
        criterion.bench_function(&format!("{name}: found, seal checked, mapped, linked (S2)"), |b| {
            b.iter(|| engine.prepare(&load()).unwrap());
        });
        let prepared = engine.prepare(&load()).unwrap();
        criterion.bench_function(&format!("{name}: instantiated and run to its end (S3)"), |b| {
            b.iter(|| {
                let spec = RunSpec { argv0: "guest".to_owned(), ..RunSpec::default() };
                let ended = runtime.block_on(engine.run(&prepared, spec, &cancel)).unwrap();
                assert_eq!(ended.outcome, Outcome::Exited(0));
            });
        });
    }
}

fn guest_bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
