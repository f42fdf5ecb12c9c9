//! Whatever is taken, written, sealed, pushed and dropped: the chain has each record once and in its order, and what it
//! holds, applied one after the other, is what the files were when they were last sealed.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Record {
        name: u8,
        length: usize,
    },
    Write {
        path: u8,
        length: usize,
    },
    Remove(u8),
    SealChanges,
    Seal,
    /// Another process seals.
    SealElsewhere,
    Push(u32),
    Keep(u64),
    PushAgain,
    /// Its writer ends, well or not, and another begins.
    Rebind {
        crash: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..60_usize).prop_map(|(name, length)| Step::Record { name, length }),
        4 => (0..5_u8, 0..60_usize).prop_map(|(path, length)| Step::Write { path, length }),
        2 => (0..5_u8).prop_map(Step::Remove),
        4 => Just(Step::SealChanges),
        3 => Just(Step::Seal),
        1 => Just(Step::SealElsewhere),
        2 => (1..5_u32).prop_map(Step::Push),
        1 => (0..200_u64).prop_map(Step::Keep),
        1 => Just(Step::PushAgain),
        2 => any::<bool>().prop_map(|crash| Step::Rebind { crash }),
    ]
}

/// Some lie in folders, and one is where a folder of another is.
const PATHS: [&str; 5] = ["a", "b", "d/x", "d/y", "e/f/g"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Record(String, Vec<u8>),
    Changes,
}

/// A segment as it was when it was sealed.
struct Sealed {
    item: Item,
    digest: crate::oci::Digest,
    layer: Vec<u8>,
    held: u64,
    pushed: bool,
    /// Its content isn't kept any more.
    dropped: bool,
}

#[derive(Default)]
struct Model {
    files: BTreeMap<String, Vec<u8>>,
    /// The files as the last changes have them.
    sealed_files: BTreeMap<String, Vec<u8>>,
    waiting: Vec<Item>,
    chain: Vec<Sealed>,
    /// Makes contents differ.
    number: u64,
}

impl Model {
    fn content(&mut self, length: usize) -> Vec<u8> {
        self.number += 1;
        let mut content = format!("{}:", self.number).into_bytes();
        content.resize(content.len() + length, b'.');
        content
    }
}

/// The files below a folder but for the outbox.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != OUTBOX {
                    todo.push(path);
                }
            } else {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let home = crate::fuzz::scratch();
    let (_home, states, state) = synced_in(home, 1 << 20).await;
    let mut handle = writer(&states, &state).await;
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Record { name, length } => {
                let (name, content) = (format!("r{name}"), model.content(length));
                record(&handle, &name, &content);
                model.waiting.push(Item::Record(name, content));
            }
            Step::Write { path, length } => {
                let (path, content) = (PATHS[usize::from(path)], model.content(length));
                let at = handle.data().join(path);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                let before = model.files.get(path).map_or(0, Vec::len) as u64;
                handle.usage().change(before, content.len() as u64).unwrap();
                fs::write(at, &content).unwrap();
                model.files.insert(path.to_owned(), content);
            }
            Step::Remove(path) => {
                let path = PATHS[usize::from(path)];
                if let Some(content) = model.files.remove(path) {
                    fs::remove_file(handle.data().join(path)).unwrap();
                    handle.usage().shrink(content.len() as u64);
                }
            }
            Step::SealChanges => {
                let sealed = handle.seal_changes(0).unwrap();
                // Folders count as well: they may be new, or empty now, where no file changed.
                if model.files != model.sealed_files {
                    prop_assert!(matches!(sealed, ChangesSealed::Sealed(_)), "{:?}", sealed);
                }
                if matches!(sealed, ChangesSealed::Sealed(_)) {
                    model.waiting.push(Item::Changes);
                    model.sealed_files.clone_from(&model.files);
                }
                prop_assert_eq!(handle.seal_changes(0).unwrap(), ChangesSealed::Nothing, "each once");
            }
            Step::Seal => seal(&states, &states, &state, &mut model).await?,
            Step::SealElsewhere => {
                let other = States::open(states.folder(state.id).root().ancestors().nth(2).unwrap()).await.unwrap();
                seal(&other, &states, &state, &mut model).await?;
            }
            Step::Push(most) => {
                let next = states.to_push(state.id, 0, most).await.unwrap();
                states.mark_pushed(state.id, &next).await.unwrap();
                for held in next {
                    model.chain[usize::try_from(held.seq).unwrap() - 1].pushed = true;
                }
            }
            Step::Keep(most) => {
                states.keep(state.id, most).await.unwrap();
                let mut sum = 0;
                for sealed in model.chain.iter_mut().rev().filter(|sealed| sealed.pushed && !sealed.dropped) {
                    sum += sealed.held;
                    sealed.dropped = sum > most;
                }
            }
            Step::PushAgain => {
                if model.chain.is_empty() {
                    continue;
                }
                let first = states.push_again(state.id).await.unwrap();
                let kept = model.chain.iter().position(|sealed| !sealed.dropped).unwrap_or(model.chain.len());
                prop_assert_eq!(first, kept as u64 + 1);
                for sealed in model.chain.iter_mut().filter(|sealed| !sealed.dropped) {
                    sealed.pushed = false;
                }
            }
            Step::Rebind { crash } => {
                if !crash {
                    handle.release().unwrap();
                }
                drop(handle);
                states.put_aside(state.id).await.unwrap();
                handle = writer(&states, &state).await;
            }
        }
        agrees(&states, &state, &handle, &model).await?;
    }
    // From the beginning, as somebody who has none of it would.
    let copy = crate::fuzz::scratch();
    let target = Target::create(copy.path()).unwrap();
    for (seq, sealed) in (1..).zip(&model.chain) {
        let kind = if sealed.item == Item::Changes { SegmentKind::Changes } else { SegmentKind::Outbox };
        target.apply(&sealed.layer[..], kind, seq).unwrap();
    }
    let last_changes_sealed = !model.waiting.contains(&Item::Changes);
    let applied = files(copy.path());
    prop_assert!(!last_changes_sealed || applied == model.sealed_files, "{:?} is {:?}", applied, model.sealed_files);
    for (seq, sealed) in (1..).zip(&model.chain) {
        if let Item::Record(name, content) = &sealed.item {
            let record = fs::read(copy.path().join(OUTBOX).join(format!("{seq:012}-{name}"))).unwrap();
            prop_assert_eq!(&record, content);
        }
    }
    Ok(())
}

/// Seals, and takes down what each new segment is.
async fn seal(by: &States, states: &States, state: &State, model: &mut Model) -> Result<(), TestCaseError> {
    let new = by.seal(state, &id()).await.unwrap();
    prop_assert_eq!(new, model.waiting.len() as u64, "each once");
    for item in std::mem::take(&mut model.waiting) {
        let seq = model.chain.len() as u64 + 1;
        let held = states.held_segment(state.id, seq).await.unwrap().expect("it was sealed");
        prop_assert_eq!(held.previous.as_ref(), model.chain.last().map(|before| &before.digest));
        let is = match held.kind {
            SegmentKind::Changes => Item::Changes,
            SegmentKind::Outbox => {
                let Item::Record(_, content) = &item else { panic!("changes were sealed as a record") };
                Item::Record(held.name.to_str().unwrap().to_owned(), content.clone())
            }
        };
        prop_assert_eq!(&is, &item, "in the order in which they were taken");
        let mut layer = Vec::new();
        held.open(&states.folder(state.id)).unwrap().read_to_end(&mut layer).unwrap();
        let manifest = held.segment(state, &states.chain(state.id).await.unwrap().lineage, &id()).manifest();
        prop_assert_eq!(sha256(&manifest), held.digest.clone());
        model.chain.push(Sealed { item, digest: held.digest, layer, held: held.held, pushed: false, dropped: false });
    }
    Ok(())
}

async fn agrees(states: &States, state: &State, handle: &StateHandle, model: &Model) -> Result<(), TestCaseError> {
    let chain = states.chain(state.id).await.unwrap();
    prop_assert_eq!(chain.sealed_seq, model.chain.len() as u64);
    prop_assert_eq!(chain.sealed_digest.as_ref(), model.chain.last().map(|last| &last.digest));
    let waits: Vec<u64> = (1..).zip(&model.chain).filter(|(_, s)| !s.pushed).map(|(seq, _)| seq).collect();
    let to_push = states.to_push(state.id, 0, 10_000).await.unwrap();
    prop_assert_eq!(to_push.iter().map(|held| held.seq).collect::<Vec<_>>(), waits);
    for held in to_push {
        let mut layer = Vec::new();
        held.open(&states.folder(state.id)).unwrap().read_to_end(&mut layer).unwrap();
        let sealed = &model.chain[usize::try_from(held.seq).unwrap() - 1];
        prop_assert_eq!((&layer, &held.digest), (&sealed.layer, &sealed.digest), "a segment changed");
    }
    let pending = states.pending(state.id).await.unwrap();
    let waiting = model.chain.iter().filter(|sealed| !sealed.pushed);
    prop_assert_eq!((pending.segments, pending.bytes), (waiting.clone().count() as u64, waiting.map(|s| s.held).sum()));
    prop_assert_eq!(files(handle.data()), model.files.clone());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_chain_is_what_was_taken(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
