//! Whatever is put, named, pinned, removed and collected, in whatever order: the store is what a few maps say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use proptest::prelude::*;

use super::super::rebuild::blobs;
use super::super::{GcOptions, Lease, Pin, Store, StoreError, Target};
use super::{index_json, manifest_json, put, put_blob, verify_all};
use crate::oci::{Digest, sha256};

/// A digest as text, which has an order.
type Text = String;

#[derive(Debug, Clone)]
enum Step {
    Blob(u8),
    Image(u8),
    Index(usize, usize),
    Referrer(usize),
    Tag(u8, usize),
    /// In cosign's form, about the second.
    SignatureTag(usize, usize),
    Untag(u8),
    RemoveTag(u8),
    Remove(usize),
    Pin(usize),
    Unpin,
    /// A writer that is under way with a blob.
    Lease(u8),
    EndLeases,
    Collect,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..8_usize;
    prop_oneof![
        1 => (0..4_u8).prop_map(Step::Blob),
        4 => (0..4_u8).prop_map(Step::Image),
        2 => (at(), at()).prop_map(|(a, b)| Step::Index(a, b)),
        2 => at().prop_map(Step::Referrer),
        3 => (0..3_u8, at()).prop_map(|(name, at)| Step::Tag(name, at)),
        1 => (at(), at()).prop_map(|(a, b)| Step::SignatureTag(a, b)),
        1 => (0..3_u8).prop_map(Step::Untag),
        1 => (0..3_u8).prop_map(Step::RemoveTag),
        2 => at().prop_map(Step::Remove),
        1 => at().prop_map(Step::Pin),
        1 => Just(Step::Unpin),
        1 => (0..4_u8).prop_map(Step::Lease),
        1 => Just(Step::EndLeases),
        3 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

/// What a manifest leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    blobs: BTreeSet<(Text, u64)>,
    children: BTreeSet<(Text, u64)>,
    subject: Option<Text>,
    size: u64,
}

#[derive(Debug, Default)]
struct Model {
    listed: BTreeMap<Text, Listed>,
    /// What was ever put, also if it isn't listed any more: its bytes may still be there.
    known: BTreeMap<Text, Listed>,
    tags: BTreeMap<String, Text>,
    disk: BTreeSet<Text>,
}

fn name(number: u8) -> String {
    format!("localhost:5000/app:v{number}")
}

fn signature_name(of: &str) -> String {
    format!("localhost:5000/app:{}.sig", of.replace(':', "-"))
}

/// Of a signature's tag, what it's about.
fn signed(name: &str) -> Option<Text> {
    let hex = name.strip_prefix("localhost:5000/app:sha256-")?.strip_suffix(".sig")?;
    Some(format!("sha256:{hex}"))
}

impl Model {
    fn put(&mut self, digest: Text, listed: Listed) {
        self.disk.insert(digest.clone());
        self.disk.extend(listed.blobs.iter().map(|(blob, _)| blob.clone()));
        self.known.insert(digest.clone(), listed.clone());
        self.listed.insert(digest, listed);
    }

    fn at(&self, at: usize) -> Option<Text> {
        self.listed.keys().nth(at % self.listed.len().max(1)).cloned()
    }

    fn parents(&self, of: &Text) -> BTreeSet<&Text> {
        self.listed.iter().filter(|(_, l)| l.children.iter().any(|(child, _)| child == of)).map(|(d, _)| d).collect()
    }

    /// Takes an artifact out with its names, what is about it, and the children that nobody else has or names.
    fn remove(&mut self, digest: &Text) -> bool {
        let Some(listed) = self.listed.get(digest).cloned() else { return false };
        let mut with: Vec<Text> =
            self.listed.iter().filter(|(_, l)| l.subject.as_ref() == Some(digest)).map(|(d, _)| d.clone()).collect();
        with.extend(self.tags.iter().filter(|(name, _)| signed(name).as_ref() == Some(digest)).map(|(_, d)| d.clone()));
        with.extend(listed.children.into_iter().map(|(child, _)| child).filter(|child| {
            !self.tags.values().any(|named| named == child) && self.parents(child).into_iter().all(|p| p == digest)
        }));
        self.listed.remove(digest);
        self.tags.retain(|_, named| named != digest);
        for next in with {
            self.remove(&next);
        }
        true
    }

    /// All that some digests lead to. What isn't listed leads nowhere.
    fn reached(&self, from: impl IntoIterator<Item = Text>) -> BTreeSet<Text> {
        let (mut reached, mut todo) = (BTreeSet::new(), from.into_iter().collect::<Vec<_>>());
        while let Some(next) = todo.pop() {
            if !reached.insert(next.clone()) {
                continue;
            }
            if let Some(listed) = self.listed.get(&next) {
                todo.extend(listed.blobs.iter().chain(&listed.children).map(|(d, _)| d.clone()));
            }
            todo.extend(self.listed.iter().filter(|(_, l)| l.subject.as_ref() == Some(&next)).map(|(d, _)| d.clone()));
            let signatures = self.tags.iter().filter(|(name, _)| signed(name).as_ref() == Some(&next));
            todo.extend(signatures.map(|(_, d)| d.clone()));
        }
        reached
    }

    /// All that a pin holds: what its content names, whether that is listed or not.
    fn held(&self, pinned: &str) -> BTreeSet<Text> {
        let (mut held, mut todo) = (BTreeSet::new(), vec![pinned.to_owned()]);
        while let Some(next) = todo.pop() {
            held.extend(self.reached([next.clone()]));
            if self.listed.contains_key(&next) && next != pinned {
                continue;
            }
            if let Some(content) = self.known.get(&next) {
                held.extend(content.blobs.iter().map(|(blob, _)| blob.clone()));
                todo.extend(content.children.iter().map(|(child, _)| child.clone()));
            }
        }
        held
    }

    /// What is about another stays as long as that, unless it has a name of its own; everything else that is listed stays.
    fn collect(&mut self, pinned: &BTreeSet<Text>, leased: &BTreeSet<Text>) {
        let alone = |digest: &Text, listed: &Listed| {
            let names: Vec<_> = self.tags.iter().filter(|(_, d)| *d == digest).map(|(name, _)| signed(name)).collect();
            names.iter().any(Option::is_none) || (listed.subject.is_none() && names.is_empty())
        };
        let roots = self.listed.iter().filter(|(d, l)| alone(d, l)).map(|(d, _)| d.clone());
        let mut stays = self.reached(roots.chain(leased.iter().cloned()));
        pinned.iter().for_each(|pin| stays.extend(self.held(pin)));
        let orphans: Vec<Text> = self.listed.keys().filter(|d| !stays.contains(*d)).cloned().collect();
        for orphan in orphans {
            self.listed.remove(&orphan);
            self.tags.retain(|_, named| *named != orphan);
        }
        self.disk.retain(|digest| stays.contains(digest));
    }

    /// The bytes of an artifact: of all that is listed below it, each descriptor counted once.
    fn total(&self, root: &Text) -> u64 {
        let (mut seen, mut todo, mut counted) = (BTreeSet::new(), vec![root.clone()], BTreeSet::new());
        while let Some(next) = todo.pop() {
            if let (true, Some(listed)) = (seen.insert(next.clone()), self.listed.get(&next)) {
                counted.extend(listed.blobs.iter().chain(&listed.children).cloned());
                todo.extend(listed.children.iter().map(|(child, _)| child.clone()));
            }
        }
        self.listed[root].size + counted.iter().map(|(_, size)| size).sum::<u64>()
    }
}

fn parsed(digest: &str) -> Digest {
    digest.parse().expect("a digest")
}

fn content(number: u8) -> Vec<u8> {
    vec![b'a' + number; 10 + usize::from(number)]
}

struct Held {
    pins: Vec<Pin>,
    leases: Vec<(Lease, Text)>,
}

impl Held {
    fn pinned(&self) -> BTreeSet<Text> {
        self.pins.iter().map(|pin| pin.digest().to_string()).collect()
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let home = crate::fuzz::scratch();
    let mut store = Store::open(home.path()).await.expect("opens");
    let (mut model, mut held) = (Model::default(), Held { pins: Vec::new(), leases: Vec::new() });
    for step in steps {
        match step {
            Step::Blob(n) => {
                // Nobody's once its writer is gone.
                let digest = put_blob(store.layout(), &store.lease().expect("a lease"), &content(n));
                model.disk.insert(digest.to_string());
            }
            Step::Image(n) => {
                let lease = store.lease().expect("a lease");
                let layer = put_blob(store.layout(), &lease, &content(n));
                let config = put_blob(store.layout(), &lease, b"{}");
                let json = manifest_json(&config, 2, &layer, content(n).len(), None);
                let digest = put(&store, &lease, &json).await;
                let blobs = BTreeSet::from([(layer.to_string(), content(n).len() as u64), (config.to_string(), 2)]);
                let size = json.len() as u64;
                model.put(digest.to_string(), Listed { blobs, children: BTreeSet::new(), subject: None, size });
            }
            Step::Index(a, b) => {
                let images: Vec<Text> =
                    model.listed.iter().filter(|(_, l)| l.children.is_empty()).map(|(d, _)| d.clone()).collect();
                if images.is_empty() {
                    continue;
                }
                let children: BTreeSet<(Text, u64)> = [a, b]
                    .iter()
                    .map(|at| images[at % images.len()].clone())
                    .map(|child| (child.clone(), model.listed[&child].size))
                    .collect();
                let named: Vec<(Digest, u64)> = children.iter().map(|(d, size)| (parsed(d), *size)).collect();
                let json = index_json(&named.iter().map(|(d, size)| (d, *size)).collect::<Vec<_>>());
                let digest = put(&store, &store.lease().expect("a lease"), &json).await;
                let size = json.len() as u64;
                model.put(digest.to_string(), Listed { blobs: BTreeSet::new(), children, subject: None, size });
            }
            Step::Referrer(at) => {
                let Some(subject) = model.at(at) else { continue };
                let lease = store.lease().expect("a lease");
                let config = put_blob(store.layout(), &lease, b"{}");
                let about = parsed(&subject);
                let json = manifest_json(&config, 2, &config, 2, Some((&about, model.listed[&subject].size)));
                let digest = put(&store, &lease, &json).await;
                let (blobs, size) = (BTreeSet::from([(config.to_string(), 2)]), json.len() as u64);
                model
                    .put(digest.to_string(), Listed { blobs, children: BTreeSet::new(), subject: Some(subject), size });
            }
            Step::Tag(number, at) => {
                let Some(digest) = model.at(at) else { continue };
                store.tag(&name(number), &parsed(&digest)).await.expect("tagged");
                model.tags.insert(name(number), digest);
            }
            Step::SignatureTag(at, about) => {
                let (Some(digest), Some(about)) = (model.at(at), model.at(about)) else { continue };
                store.tag(&signature_name(&about), &parsed(&digest)).await.expect("tagged");
                model.tags.insert(signature_name(&about), digest);
            }
            Step::Untag(number) => {
                let was = store.untag(&name(number)).await.expect("untagged");
                prop_assert_eq!(was, model.tags.remove(&name(number)).is_some());
            }
            Step::RemoveTag(number) => {
                let removed = store.remove(Target::Tag(&name(number))).await;
                match model.tags.remove(&name(number)) {
                    None => prop_assert!(matches!(removed, Err(StoreError::NoArtifact(_)))),
                    Some(digest) if model.tags.values().any(|named| *named == digest) => {
                        prop_assert!(removed.expect("removed").is_empty());
                    }
                    Some(digest) => {
                        prop_assert!(model.remove(&digest));
                        prop_assert!(removed.expect("removed").contains(&parsed(&digest)));
                    }
                }
            }
            Step::Remove(at) => {
                let Some(digest) = model.at(at) else { continue };
                let before: BTreeSet<Text> = model.listed.keys().cloned().collect();
                model.remove(&digest);
                let gone: BTreeSet<Text> = before.into_iter().filter(|d| !model.listed.contains_key(d)).collect();
                let removed = store.remove(Target::Digest(&parsed(&digest))).await.expect("removed");
                prop_assert_eq!(removed.iter().map(Digest::to_string).collect::<BTreeSet<_>>(), gone);
                let again = store.remove(Target::Digest(&parsed(&digest))).await;
                prop_assert!(matches!(again, Err(StoreError::NoArtifact(_))));
            }
            Step::Pin(at) => {
                let Some(digest) = model.at(at) else { continue };
                held.pins.push(store.layout().pin(&parsed(&digest)).expect("pinned"));
            }
            Step::Unpin => drop(held.pins.pop()),
            Step::Lease(n) => {
                let lease = store.lease().expect("a lease");
                let digest = put_blob(store.layout(), &lease, &content(n));
                model.disk.insert(digest.to_string());
                held.leases.push((lease, digest.to_string()));
            }
            Step::EndLeases => held.leases.clear(),
            Step::Collect => {
                let dry = GcOptions { dry_run: true, ..GcOptions::new(SystemTime::now()) };
                let dry = store.gc(dry).await.expect("planned");
                let done = store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
                prop_assert_eq!(&done.removed, &dry.removed, "a dry run says what a run does");
                model.collect(&held.pinned(), &held.leases.iter().map(|(_, digest)| digest.clone()).collect());
                let there: BTreeSet<Text> =
                    blobs(store.layout()).expect("listed").into_iter().map(|(digest, _)| digest.to_string()).collect();
                prop_assert_eq!(&there, &model.disk, "exactly what something needs is there");
                prop_assert_eq!(done.kept_blobs, model.disk.len() as u64);
            }
            Step::Reopen => store = Store::open(home.path()).await.expect("opens again"),
        }
        agrees(&store, &model, &held).await?;
    }
    Ok(())
}

async fn agrees(store: &Store, model: &Model, held: &Held) -> Result<(), TestCaseError> {
    let list = store.list().await.expect("listed");
    let digests: BTreeSet<Text> = list.iter().map(|entry| entry.digest.to_string()).collect();
    prop_assert_eq!(digests, model.listed.keys().cloned().collect::<BTreeSet<_>>());
    for entry in &list {
        let digest = entry.digest.to_string();
        let listed = &model.listed[&digest];
        let names: Vec<&String> = model.tags.iter().filter(|(_, d)| **d == digest).map(|(name, _)| name).collect();
        prop_assert_eq!(entry.tags.iter().collect::<Vec<_>>(), names);
        prop_assert_eq!(entry.subject.as_ref().map(Digest::to_string), listed.subject.clone());
        prop_assert_eq!(entry.has_parent, !model.parents(&digest).is_empty());
        prop_assert_eq!(entry.total_size, model.total(&digest));
    }
    for number in 0..3 {
        let resolved = store.resolve(&name(number)).await.expect("resolved");
        prop_assert_eq!(resolved.map(|d| d.to_string()), model.tags.get(&name(number)).cloned());
    }
    verify_all(store).await.expect("what is listed is there and verifies");
    for digest in &model.disk {
        prop_assert!(store.layout().blob_size(&parsed(digest)).expect("looked").is_some(), "{} is gone", digest);
    }
    for pin in &held.pins {
        prop_assert_eq!(&sha256(&pin.read_verified(1 << 20).expect("what is pinned is whole")), pin.digest());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_a_few_maps_say(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(steps))?;
    }
}
