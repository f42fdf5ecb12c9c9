//! Killed at any moment of writing, sealing and pushing: what was acknowledged is on the far side, each record once and in
//! its order. `VYR_KILLS` says how often, `VYR_SEED` repeats a run.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vyr::ops::state;

use super::{Synced, json, pull, record, records_in, sync};
use crate::support::{Home, Registry};

const MARKER: &str = "to-be-killed";

/// The killed side: a writer, a sealer and a pusher in one, in a home folder as its working folder. It writes down what was
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs until it's killed; the test below starts it"]
async fn victim() {
    if !Path::new(MARKER).exists() {
        return;
    }
    let synced = Synced::open(Path::new("."), "readings");
    let pusher = Synced::open(Path::new("."), "readings");
    tokio::spawn(async move {
        loop {
            // The registry is there, so only the kill ends it; but for who else drains.
            state::sync(&pusher.vyr, "readings").await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut acknowledged = OpenOptions::new().create(true).append(true).open("acknowledged").unwrap();
    let handle = synced.writer().await;
    for n in 0.. {
        let name = format!("{}-{n}", std::process::id());
        let (held, of) = (handle.clone(), name.clone());
        tokio::task::spawn_blocking(move || record(&held, &of, format!("the content of {of}").as_bytes()))
            .await
            .unwrap();
        // One write: between two of them there is room for the kill, and half a line that the next victim ends.
        acknowledged.write_all(format!("{name}\n").as_bytes()).unwrap();
        if n % 7 == 3 {
            let mut state_file = fs::read(handle.data().join("count")).unwrap_or_default();
            state_file.extend_from_slice(format!("{name}\n").as_bytes());
            let _ = handle.usage().grow(name.len() as u64 + 1);
            fs::write(handle.data().join("count"), state_file).unwrap();
            state::seal_changes(&synced.vyr, &handle, 0).await.unwrap();
        }
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

#[tokio::test]
async fn killed_at_any_moment_what_was_acknowledged_is_there_once_and_in_order() {
    kill_and_look(15).await;
}

#[tokio::test]
#[ignore = "takes minutes; VYR_KILLS=300 says how often"]
async fn killed_at_three_hundred_moments() {
    kill_and_look(std::env::var("VYR_KILLS").ok().map_or(300, |n| n.parse().expect("VYR_KILLS is a number"))).await;
}

async fn kill_and_look(times: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed: u64 = std::env::var("VYR_SEED").ok().map_or(now, |n| n.parse().expect("VYR_SEED is a number"));
    eprintln!("seed {seed}");
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    drop(Synced::create(&home, "readings", &repository, 64 << 20).await);
    fs::write(home.vyr_home().join(MARKER), b"").unwrap();
    let (mut pushed_while_killed, mut round) = (0, 0);
    let acknowledged_so_far =
        || fs::read_to_string(home.vyr_home().join("acknowledged")).map_or(0, |lines| lines.lines().count());
    // On a busy machine a victim gets less far before it dies: then more of them.
    while round < times || (round < 8 * times && (pushed_while_killed <= 5 || acknowledged_so_far() <= 20)) {
        // By this name it is there even when it was built anew since.
        let mut victim = Command::new("/proc/self/exe")
            .args(["--exact", "state::kills::victim", "--ignored", "--nocapture"])
            .current_dir(home.vyr_home())
            .env("DOCKER_CONFIG", home.work())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.work().join("victim.log")).unwrap())
            .spawn()
            .unwrap();
        // Spread over the steps without a pattern: a multiplicative walk.
        std::thread::sleep(Duration::from_millis(60 + (round + seed).wrapping_mul(2_654_435_761) % 400));
        let ended = victim.try_wait().unwrap();
        let said = || fs::read_to_string(home.work().join("victim.log")).unwrap_or_default();
        assert!(ended.is_none(), "it was to be killed, and ended by itself after round {round}:\n{}", said());
        victim.kill().unwrap();
        victim.wait().unwrap();
        let listed = home.tool("crane", ["ls", &repository]);
        pushed_while_killed = listed.stdout.lines().filter(|tag| tag.starts_with("segment-")).count();
        if round % 50 == 49 {
            check(&home, &repository, &format!("after-{round}"), false);
        }
        round += 1;
    }
    let acknowledged = check(&home, &repository, "all", true);
    assert!(pushed_while_killed > 5 && acknowledged > 20, "{pushed_while_killed} pushed, {acknowledged} acknowledged");
    eprintln!("{round} kills, {acknowledged} acknowledged, {pushed_while_killed} segments pushed before the last sync");
}

/// Syncs, pulls, and compares with what was acknowledged; how many that are.
fn check(home: &Home, repository: &str, to: &str, thorough: bool) -> usize {
    let report = json(&sync(home, "readings").expect(0));
    assert_eq!(report["pending"], 0, "{report}");
    let acknowledged = fs::read_to_string(home.vyr_home().join("acknowledged")).unwrap();
    let acknowledged: Vec<&str> = acknowledged.lines().collect();
    pull(home, repository, to).expect(0);
    let found = records_in(&home.work().join(to));
    let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
    let unique: HashSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "a record came twice");
    let lost: Vec<_> = acknowledged.iter().filter(|name| !unique.contains(*name)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    // What was taken and not acknowledged before the kill may be there: the last one of a victim, at most.
    let told: HashSet<&str> = acknowledged.iter().copied().collect();
    let order: Vec<&str> = names.iter().copied().filter(|name| told.contains(name)).collect();
    assert_eq!(order, acknowledged, "the order is kept");
    if thorough {
        let folder = home.work().join(to);
        let states = fs::read_dir(home.vyr_home().join("state")).unwrap();
        let own = states.map(|e| e.unwrap().path().join("data")).find(|data| data.is_dir()).unwrap();
        assert_eq!(fs::read(folder.join("count")).ok(), fs::read(own.join("count")).ok());
    }
    acknowledged.len()
}
