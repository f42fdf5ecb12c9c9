//! Killed at any moment, in any verb that writes: the store opens, what it lists re-hashes, and nothing acknowledged is
//! gone. `VYR_KILLS` says how often, `VYR_SEED` repeats a run.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Home, Registry, sha256};

/// xorshift64*: enough to spread moments, and repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }
}

/// A module that does nothing, made different by a custom section of `length` random bytes.
fn module(random: &mut Random, length: usize) -> Vec<u8> {
    let mut section = vec![1, b'r'];
    while section.len() < length {
        section.extend(random.next().to_le_bytes());
    }
    let mut wasm = b"\0asm\x01\0\0\0\0".to_vec();
    let mut left = section.len();
    loop {
        let low = u8::try_from(left & 0x7f).unwrap();
        left >>= 7;
        wasm.push(if left == 0 { low } else { low | 0x80 });
        if left == 0 {
            break;
        }
    }
    wasm.extend(section);
    wasm
}

fn blob(layout: &Path, digest: &str) -> std::path::PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn index_of(layout: &Path) -> Vec<String> {
    let bytes = fs::read(layout.join("index.json")).unwrap_or_else(|e| panic!("{}: {e}", layout.display()));
    let index: Value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|e| panic!("index.json is no JSON: {e}\n{}", String::from_utf8_lossy(&bytes)));
    let entries = index["manifests"].as_array().expect("index.json has manifests");
    entries.iter().map(|e| e["digest"].as_str().expect("an entry has a digest").to_owned()).collect()
}

/// A manifest's bytes and those of all that it names are what their digests say.
fn rehash(layout: &Path, digest: &str, seen: &mut HashSet<String>) {
    if !seen.insert(digest.to_owned()) {
        return;
    }
    let path = blob(layout, digest);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{} is listed: {e}", path.display()));
    assert_eq!(sha256(&bytes), digest, "{} holds other bytes", path.display());
    let Ok(manifest) = serde_json::from_slice::<Value>(&bytes) else { return };
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for named in layers.iter().chain([&manifest["config"]]).filter_map(|d| d["digest"].as_str()) {
        rehash(layout, named, seen);
    }
}

struct Check<'a> {
    home: &'a Home,
    stored: HashSet<String>,
    published: HashSet<String>,
}

impl Check<'_> {
    /// The promises after a kill; how many digests are listed.
    fn run(&self, thorough: bool) -> usize {
        let listed = self.home.vyr(["artifacts", "--all", "--output", "json"]).expect(0);
        let listed: Value = serde_json::from_str(&listed.stdout).expect("one JSON document");
        let listed: HashSet<String> = listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["digest"].as_str().expect("a digest").to_owned())
            .collect();
        let lost: Vec<_> = self.stored.difference(&listed).collect();
        assert!(lost.is_empty(), "acknowledged and gone from the store: {lost:?}");
        let mut seen = HashSet::new();
        let store = self.home.store();
        for digest in index_of(&store) {
            assert!(blob(&store, &digest).is_file(), "index.json names {digest}, which isn't there");
        }
        if thorough {
            listed.iter().for_each(|digest| rehash(&store, digest, &mut seen));
        }
        let layout = self.home.work().join("out");
        if !layout.join("index.json").is_file() {
            assert!(self.published.is_empty(), "acknowledged pushes, and the layout has no index.json");
            return listed.len();
        }
        let there: HashSet<String> = index_of(&layout).into_iter().collect();
        let lost: Vec<_> = self.published.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and gone from the pushed layout: {lost:?}");
        for digest in &there {
            assert!(blob(&layout, digest).is_file(), "the layout's index.json names {digest}, which isn't there");
        }
        if thorough {
            let mut seen = HashSet::new();
            there.iter().for_each(|digest| rehash(&layout, digest, &mut seen));
        }
        listed.len()
    }
}

/// Runs it until `moment`, then kills it. `Some` exit code if it ended by itself before.
fn kill_at(mut command: Command, moment: Duration) -> Option<i32> {
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("vyr starts");
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return Some(status.code().unwrap_or(-1));
        }
        if started.elapsed() >= moment {
            child.kill().expect("it can be killed");
            let status = child.wait().expect("it can be waited for");
            // It may have ended in between: then its word counts.
            return status.code();
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

const VERBS: [&str; 4] = ["pull", "put", "push", "gc"];

#[test]
fn killed_in_any_verb_at_any_moment_nothing_acknowledged_is_gone() {
    let wanted: usize = std::env::var("VYR_KILLS").ok().map_or(25, |n| n.parse().expect("VYR_KILLS is a number"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let seed: u64 = std::env::var("VYR_SEED").ok().map_or(now, |n| n.parse().expect("VYR_SEED is a number"));
    eprintln!("seed {seed}");
    let mut random = Random(seed | 1);
    let (registry, home) = (Registry::start(), Home::new());
    let mut check = Check { home: &home, stored: HashSet::new(), published: HashSet::new() };
    let mut usual: BTreeMap<&str, Duration> = VERBS.map(|verb| (verb, Duration::from_millis(150))).into();
    let (mut kills, mut ended): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = (BTreeMap::new(), BTreeMap::new());
    let mut rounds = 0;
    while kills.values().sum::<usize>() < wanted {
        rounds += 1;
        assert!(rounds < wanted * 10 + 20, "most commands end before they are killed: {kills:?} {ended:?}");
        let verb = VERBS[usize::try_from(random.below(4)).unwrap()];
        let length = 1 << (14 + random.below(6));
        let wasm = module(&mut random, length);
        let (mut stored, mut published) = (None, None);
        let command = match verb {
            "pull" => {
                let path = home.write("pulled.wasm", &wasm);
                let tag = format!("v{rounds}");
                let digest = home.oras_push(&registry.reference("app", &tag), &path);
                let by_tag = random.below(2) == 0;
                let reference =
                    if by_tag { registry.reference("app", &tag) } else { registry.by_digest("app", &digest) };
                stored = Some(digest);
                home.vyr_command(["pull", &reference])
            }
            "put" => {
                home.write("put.wasm", &wasm);
                home.write("put.config", "{}");
                let manifest = json!({
                    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
                    "layers": [{ "mediaType": "application/wasm", "digest": sha256(&wasm), "size": wasm.len() }],
                });
                let manifest = manifest.to_string();
                home.write("put.json", &manifest);
                stored = Some(sha256(manifest.as_bytes()));
                let blobs = ["--blob", "put.wasm", "--blob", "put.config"];
                let name = format!("localhost:1/put:v{rounds}");
                home.vyr_command([&["put", "--manifest", "put.json", "--name", &name], &blobs[..]].concat())
            }
            "push" => {
                home.write("push.wasm", &wasm);
                published = Some(());
                home.vyr_command(["push", &format!("oci:out:v{rounds}"), "push.wasm"])
            }
            _ => home.vyr_command(["gc"]),
        };
        // One in six is let end, so that there is something to lose, and to know how long it takes.
        let let_end = random.below(6) == 0;
        let within = u64::try_from(usual[verb].as_micros()).unwrap();
        let moment =
            if let_end { Duration::from_secs(60) } else { Duration::from_micros(random.below(within * 11 / 10)) };
        let started = Instant::now();
        match kill_at(command, moment) {
            None => *kills.entry(verb).or_default() += 1,
            Some(0) => {
                usual.insert(verb, started.elapsed());
                *ended.entry(verb).or_default() += 1;
                check.stored.extend(stored);
                if published.is_some() {
                    // The digest is what the layout's tag names now; from here on it may not go.
                    let index: Value = serde_json::from_slice(&fs::read(home.work().join("out/index.json")).unwrap())
                        .expect("index.json is JSON");
                    let name = format!("v{rounds}");
                    let entry = index["manifests"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .find(|e| e["annotations"]["org.opencontainers.image.ref.name"] == *name)
                        .unwrap_or_else(|| panic!("the push of {name} was acknowledged: {index}"));
                    check.published.insert(entry["digest"].as_str().unwrap().to_owned());
                }
            }
            Some(code) => panic!("`vyr {verb}` failed with {code} after kills {kills:?} (seed {seed})"),
        }
        check.run(rounds % 5 == 0);
    }
    let listed = check.run(true);
    let path = home.write("last.wasm", module(&mut random, 4096));
    let digest = home.oras_push(&registry.reference("app", "last"), &path);
    home.vyr(["pull", &registry.by_digest("app", &digest)]).expect(0);
    home.vyr(["gc"]).expect(0);
    check.stored.insert(digest);
    check.run(true);
    let left: Vec<_> = fs::read_dir(home.vyr_home().join("ingest")).unwrap().map(|e| e.unwrap().path()).collect();
    let left: Vec<_> = left.iter().filter(|p| p.extension().is_none_or(|e| e != "partial")).collect();
    assert!(left.is_empty(), "a collection leaves nothing of the dead: {left:?}");
    eprintln!(
        "{} kills {kills:?}, acknowledged {ended:?}, listed {listed}, acknowledged artifacts {} in the store and {} \
         pushed, lost 0",
        kills.values().sum::<usize>(),
        check.stored.len(),
        check.published.len()
    );
}
