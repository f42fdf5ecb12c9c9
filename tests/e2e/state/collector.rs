//! A collector that is cut off for most of the time and whose node is killed: what the far side reads back is what its
//! guests were told is kept, record for record.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vyr_proto::v0::*;

use crate::support::{Fault, FaultProxy, Home, Node, Registry, pushed, spec};

/// How often the node is killed.
const KILLS: usize = 5;

#[tokio::test]
async fn cut_off_for_most_of_the_time_and_killed_five_times_nothing_is_lost_and_nothing_is_there_twice() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let down = Arc::new(AtomicBool::new(true));
    let cut = Arc::clone(&down);
    let upstream = registry.host();
    // It has a runtime of its own.
    let proxy = std::thread::spawn(move || {
        FaultProxy::start(&upstream, move |_, _| match cut.load(Ordering::SeqCst) {
            true => Fault::Refuse,
            false => Fault::None,
        })
    });
    let proxy = proxy.join().unwrap();
    let target = format!("{}/readings", proxy.host());
    home.vyr(["state", "create", "readings", "--sync", &target, "--quota", "256MiB"]).expect(0);
    // What a guest was told is kept is written down in another state, a line each.
    home.vyr(["state", "create", "told"]).expect(0);
    let binding = |state: &str| StateBinding { state: state.into(), alias: state.into(), ..StateBinding::default() };
    let (began, mut reachable) = (Instant::now(), Duration::ZERO);
    let mut made = 0;
    for round in 0..=KILLS {
        let node = Node::start(&home, &[]);
        let mut client = node.connect().await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        let steps = [
            "mkdir:/state/readings/outbox".to_owned(),
            format!("logged:/state/readings/outbox:r{round}:100:/state/told/log"),
        ];
        let mut wanted = spec(&guest, &steps.each_ref().map(String::as_str));
        wanted.states = vec![binding("readings"), binding("told")];
        client.submit(wanted).await;
        let told = || home.vyr(["state", "get", "told", "log"]).stdout.lines().count();
        // Until there are enough of this round; in one of them the network is there for a moment.
        let enough = made + 50;
        while told() < enough {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round % 3 == 1 {
            let up = Instant::now();
            down.store(false, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(600)).await;
            down.store(true, Ordering::SeqCst);
            reachable += up.elapsed();
        }
        node.kill();
        made = told();
    }
    let took = began.elapsed();
    let cut_off = took - reachable;
    assert!(cut_off > reachable * 2, "{cut_off:?} without a network, {reachable:?} with one");
    down.store(false, Ordering::SeqCst);
    home.vyr(["state", "sync", "readings"]).expect(0);

    let told: Vec<String> =
        home.vyr(["state", "get", "told", "log"]).expect(0).stdout.lines().map(str::to_owned).collect();
    // The far side has the repository and the collector's public key.
    let far = Home::new();
    far.vyr(["trust", "add", "--key", home.machine_key().public.to_str().unwrap()]).expect(0);
    let report = far.vyr(["state", "pull", &target, "--to", "back", "--output", "json"]).expect(0).json();
    let mut back = BTreeMap::new();
    for entry in fs::read_dir(far.work().join("back/outbox")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (place, name) = name.split_once('-').unwrap();
        assert_eq!(fs::read_to_string(entry.path()).unwrap(), format!("record {name}\n"));
        assert!(back.insert(place.parse::<u64>().unwrap(), name.to_owned()).is_none());
    }
    let back: Vec<String> = back.into_values().collect();
    // In order and once; beyond what was written down at most the one of each kill whose line was not.
    let mut rest = back.iter();
    for name in &told {
        assert!(rest.any(|found| found == name), "{name} was acknowledged and is not there in its place");
    }
    let mut once = back.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), back.len(), "a record is there twice");
    let more = back.len() - told.len();
    assert!(more <= KILLS + 1, "{more} that nobody was told of");
    eprintln!(
        "{KILLS} kills, {:.0} % of the time without a network: {} records acknowledged, {} read back, {more} taken whose \
         guest was killed before it could note them, 0 lost, 0 twice; {report}",
        100.0 * cut_off.as_secs_f64() / took.as_secs_f64(),
        told.len(),
        back.len()
    );
}
