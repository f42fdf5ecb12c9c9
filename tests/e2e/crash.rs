//! Kill -9 of `vyr pull`, `put` and `gc` at random moments: the store opens, what is listed verifies, nothing that was
//! acknowledged is gone. `VYR_KILLS` sets how many (25 by default), `VYR_SEED` repeats a run.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vyr_guests::guest;

use crate::support::{Home, Registry, sha256};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number: {v}")))
}

/// A blob's bytes, as its name says.
fn verified(home: &Home, digest: &str) -> Vec<u8> {
    let path = home.store().join("blobs/sha256").join(&digest[7..]);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{digest} is listed, but: {e}"));
    assert_eq!(sha256(&bytes), digest, "a listed blob is damaged");
    bytes
}

fn check(home: &Home, acknowledged: &BTreeSet<String>) -> usize {
    let listed = home.vyr(["artifacts", "--all", "--output", "json"]).expect(0);
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let digests: BTreeSet<String> = listed.iter().map(|row| row["digest"].as_str().unwrap().to_owned()).collect();
    for digest in &digests {
        let manifest: Value = serde_json::from_slice(&verified(home, digest)).unwrap();
        for part in manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]) {
            verified(home, part["digest"].as_str().unwrap());
        }
    }
    let lost: Vec<_> = acknowledged.difference(&digests).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    let index: Value = serde_json::from_slice(&fs::read(home.store().join("index.json")).unwrap()).unwrap();
    for entry in index["manifests"].as_array().unwrap() {
        verified(home, entry["digest"].as_str().unwrap());
    }
    digests.len()
}

#[test]
fn killed_at_any_moment_the_store_is_whole() {
    let (kills, seed) = (number("VYR_KILLS", 25), number("VYR_SEED", 0x5eed_cafe));
    let mut random = Random(seed);
    let (registry, publisher, home) = (Registry::start(), Home::new(), Home::new());
    let pushed: Vec<String> =
        ["hello-p1", "exit-p1", "memory-p1", "files-p1", "noisy-p1", "spin-p1", "hello", "c-hello"]
            .iter()
            .map(|name| {
                publisher
                    .vyr(["push", &registry.reference(name, "v1"), guest(name).to_str().unwrap()])
                    .expect(0)
                    .stdout
                    .trim()
                    .to_owned()
            })
            .collect();
    let wasm = home.work().join("app.wasm");
    fs::copy(guest("hello-p1"), &wasm).unwrap();
    let empty = home.write("empty.json", "{}");
    let mut acknowledged = BTreeSet::new();
    let (mut by_verb, mut done_first) = ([0_u32; 3], 0);
    // How long each verb takes here, so that the kills spread over all of it.
    let mut usual = [Duration::from_millis(60); 3];
    let mut count = 0;
    while u64::from(by_verb.iter().sum::<u32>()) < kills {
        count += 1;
        let verb = usize::try_from(random.below(3)).unwrap();
        let (words, digest): (Vec<String>, Option<String>) = match verb {
            0 => {
                let reference = &pushed[usize::try_from(random.below(pushed.len() as u64)).unwrap()];
                (vec!["pull".into(), reference.clone()], Some(reference.split_once('@').unwrap().1.to_owned()))
            }
            1 => {
                let bytes = fs::read(&wasm).unwrap();
                let manifest = json!({
                    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
                    "layers": [{"mediaType": "application/wasm", "digest": sha256(&bytes), "size": bytes.len()}],
                    "annotations": {"number": count.to_string()},
                })
                .to_string();
                let path = home.write("manifest.json", &manifest);
                let words = [
                    "put",
                    "--manifest",
                    path.to_str().unwrap(),
                    "--blob",
                    wasm.to_str().unwrap(),
                    "--blob",
                    empty.to_str().unwrap(),
                ];
                (words.map(str::to_owned).to_vec(), Some(sha256(manifest.as_bytes())))
            }
            _ => (vec!["gc".into()], None),
        };
        let began = Instant::now();
        let mut child =
            home.vyr_command(&words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let limit = u64::try_from(usual[verb].as_micros()).unwrap() * 11 / 10;
        std::thread::sleep(Duration::from_micros(random.below(limit.max(1))));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            // It was faster than its killer: its word counts.
            done_first += 1;
            usual[verb] = (usual[verb] + began.elapsed()) / 2;
            acknowledged.extend(digest);
        } else {
            by_verb[verb] += 1;
            usual[verb] = usual[verb].max(began.elapsed()) + Duration::from_millis(1);
        }
        if count % 5 == 0 {
            check(&home, &acknowledged);
        }
    }
    let listed = check(&home, &acknowledged);
    for reference in &pushed {
        home.vyr(["pull", reference]).expect(0);
    }
    home.vyr(["gc"]).expect(0);
    check(
        &home,
        &pushed.iter().map(|r| r.split_once('@').unwrap().1.to_owned()).chain(acknowledged.iter().cloned()).collect(),
    );
    eprintln!(
        "kills: {kills} (pull {}, put {}, gc {}), ended first: {done_first}, acknowledged: {}, lost: 0, listed: {listed}, seed: {seed}",
        by_verb[0],
        by_verb[1],
        by_verb[2],
        acknowledged.len()
    );
}
