//! Whatever is done with it, it is a map that has a quota.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Place, writer};

#[derive(Debug, Clone)]
enum Step {
    Set(String, Vec<u8>),
    Delete(String),
    Add(String, i64),
    Settle,
    Checkpoint,
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || "[a-c./%]{1,2}";
    prop_oneof![
        6 => (key(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Step::Set(key, value)),
        3 => key().prop_map(Step::Delete),
        2 => (key(), -5..5_i64).prop_map(|(key, delta)| Step::Add(key, delta)),
        2 => Just(Step::Settle),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map(steps in proptest::collection::vec(step(), 1..40)) {
        const QUOTA: u64 = 150;
        let place = Place::new();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let sum = |model: &BTreeMap<String, Vec<u8>>| model.values().map(|v| v.len() as u64).sum::<u64>();
        let (mut store, mut usage) = place.write_with(QUOTA);
        let reader = place.read();
        for step in steps {
            match step {
                Step::Set(key, value) => {
                    let mut next = model.clone();
                    let grows = value.len() > model.get(&key).map_or(0, Vec::len);
                    next.insert(key.clone(), value.clone());
                    let fits = !grows || sum(&next) <= QUOTA;
                    prop_assert_eq!(store.set(&key, value).is_ok(), fits);
                    if fits { model = next }
                }
                Step::Delete(key) => {
                    store.delete(&key).unwrap();
                    model.remove(&key);
                }
                Step::Add(key, delta) => {
                    let before = match model.get(&key) {
                        Some(digits) => std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok()),
                        None => Some(0),
                    };
                    let mut next = model.clone();
                    let fits = before.is_some_and(|before| {
                        next.insert(key.clone(), (before + delta).to_string().into_bytes());
                        sum(&next) <= QUOTA || sum(&next) <= sum(&model)
                    });
                    prop_assert_eq!(store.increment(&key, delta).is_ok(), fits);
                    if fits { model = next }
                }
                Step::Settle => store.settle().unwrap(),
                Step::Checkpoint => writer(&store).checkpoint().unwrap(),
                Step::Close | Step::Crash => {
                    if matches!(step, Step::Close) { store.close(true).unwrap() } else { store.abandon() }
                    (store, usage) = place.write_with(QUOTA);
                }
            }
            prop_assert_eq!((usage.bytes(), usage.entries()), (sum(&model), model.len() as u64));
            let keys: Vec<_> = model.keys().cloned().collect();
            for store in [&store, &reader] {
                prop_assert_eq!(store.keys(None, 1000).unwrap(), keys.clone());
                for key in ["a", "b", "c", ".", "/", "%a", "ab"] {
                    prop_assert_eq!(store.get(key).unwrap(), model.get(key).cloned());
                    prop_assert_eq!(store.exists(key).unwrap(), model.contains_key(key));
                }
            }
            if let Some(first) = keys.first() {
                prop_assert_eq!(store.keys(Some(first), 2).unwrap(), keys[1..keys.len().min(3)].to_vec());
            }
        }
        store.close(true).unwrap();
        prop_assert_eq!(place.files().len(), model.len());
        prop_assert_eq!(place.folder.measure().unwrap(), (sum(&model), model.len() as u64));
    }
}
