//! The short form of fuzzing, without instrumentation: every seed, and what a seeded generator makes of them for a while.

mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{TARGETS, Target};

/// How long the seeds of each target are changed.
const CHANGED_FOR: Duration = Duration::from_millis(1000);
/// The longest input that is made, in bytes.
const LONGEST: usize = 8 << 10;
/// An input that takes longer is a way to keep a node busy. A debug build on a machine with other work is slow by itself.
const SLOW: Duration = Duration::from_secs(5);

/// Words that a change of single bytes doesn't find.
const WORDS: [&[u8]; 40] = [
    b"sha256:",
    b"sha512:",
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"..",
    b"../",
    b"/",
    b"//",
    b"@",
    b":",
    b"\0",
    b"%2e",
    b"\x1b[2J",
    b"\"mediaType\":",
    b"\"digest\":",
    b"\"size\":",
    b"\"manifests\":[",
    b"\"layers\":[",
    b"\"config\":{",
    b"\"subject\":{",
    b"\"annotations\":{",
    b"null",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775808",
    b"1e309",
    b"{}",
    b"[]",
    b"[[rule]]\n",
    b"[[rule.identity]]\n",
    b"repository = ''\n",
    b"action = 'accept-unsigned'\n",
    b"keys = []\n",
    b"identity-regexp = 'a)|(b'\n",
    b"[[mirror]]\n",
    b"\\u0000",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"oci:",
    b".sig",
    b"docker.io/",
    b"\xef\xbb\xbf",
];

/// A xorshift generator: the same numbers each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target.name);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<_> = listed.map(|e| e.unwrap().path()).map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
    seeds.sort();
    seeds
}

/// One to four changes of an input.
fn changed(chance: &mut Chance, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut input = seeds[chance.below(seeds.len())].1.clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(input.len() + 1);
        let to = (at + chance.below(16)).min(input.len());
        match chance.below(8) {
            0 if at < input.len() => input[at] ^= 1 << chance.below(8),
            1 if at < input.len() => input[at] = chance.byte(),
            2 => drop(input.splice(at..at, [chance.byte()])),
            3 => drop(input.drain(at..to)),
            4 => drop(input.splice(at..to, WORDS[chance.below(WORDS.len())].iter().copied())),
            5 => {
                let piece = input[at..to].to_vec();
                let place = chance.below(input.len() + 1);
                drop(input.splice(place..place, piece));
            }
            6 => {
                let other = &seeds[chance.below(seeds.len())].1;
                let from = chance.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LONGEST);
    input
}

/// Runs one input; an input that breaks a promise is written beside the seeds' folder, to become one of them.
fn run(target: &Target, input: &[u8], what: &dyn std::fmt::Debug) {
    let began = Instant::now();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let kept = std::env::temp_dir().join(format!("vyr-{}-{:08x}", target.name, crc32fast::hash(input)));
        std::fs::write(&kept, input).unwrap();
        println!("{}: {what:?} breaks it; the input is in {}", target.name, kept.display());
        std::panic::resume_unwind(panic);
    }
    assert!(began.elapsed() < SLOW, "{}: {what:?} took {:?}", target.name, began.elapsed());
}

fn replay_and_change(name: &str, time: Duration) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds(target);
    assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
    for (path, seed) in &seeds {
        run(target, seed, path);
    }
    let (mut chance, mut executions) = (Chance(0x9e37_79b9_7f4a_7c15), seeds.len());
    let began = Instant::now();
    while began.elapsed() < time {
        run(target, &changed(&mut chance, &seeds), &executions);
        executions += 1;
    }
    println!("fuzz {name}: {} seeds, {executions} executions in {:.1} s", seeds.len(), began.elapsed().as_secs_f64());
}

#[test]
fn reference() {
    replay_and_change("reference", CHANGED_FOR);
}

#[test]
fn manifest() {
    replay_and_change("manifest", CHANGED_FOR);
}

#[test]
fn signature() {
    replay_and_change("signature", CHANGED_FOR);
}

#[test]
fn layer() {
    replay_and_change("layer", CHANGED_FOR);
}

#[test]
fn upload() {
    replay_and_change("upload", CHANGED_FOR);
}

#[test]
fn request() {
    replay_and_change("request", CHANGED_FOR);
}

#[test]
fn policy() {
    replay_and_change("policy", CHANGED_FOR);
}

#[test]
fn settings() {
    replay_and_change("settings", CHANGED_FOR);
}

#[test]
fn every_target_has_its_program_and_its_test() {
    let programs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let this = include_str!("tests.rs");
    for Target { name, .. } in TARGETS {
        assert!(programs.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
        assert!(this.contains(&format!("replay_and_change(\"{name}\"")), "{name}");
    }
}
