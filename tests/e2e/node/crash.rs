//! Killed at random moments under load: what was acknowledged comes to a truthful end, exactly once by its record.
//! `VYR_KILLS` says how often, `VYR_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vyr_proto::v0::*;

use crate::support::{Client, Home, Node, Registry, pushed, seconds, spec};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % limit
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// An acknowledged task: its key, whether its submit wants it run again, and the end that was told, if one was.
type Acknowledged = Arc<Mutex<BTreeMap<String, (String, bool, Option<Task>)>>>;

/// Submits until the node is gone. What was answered is noted; a call that broke off may have made a task or not.
async fn load(mut client: Client, hello: String, sleep: String, seed: u64, acknowledged: Acknowledged) {
    let mut random = Random(seed);
    loop {
        let again = random.below(2) == 0;
        let mut spec = match random.below(4) {
            0 => spec(&sleep, &["30"]),
            _ => spec(&hello, &["x"]),
        };
        spec.on_interrupt = if again { OnInterrupt::RunAgain } else { OnInterrupt::Lose }.into();
        let key = format!("{seed}-{}", random.below(u64::MAX));
        let wait = (random.below(3) == 0).then(|| seconds(5)).flatten();
        let request = SubmitTaskRequest { spec: Some(spec), idempotency_key: key.clone(), wait };
        match client.0.submit_task(request).await {
            Ok(answer) => {
                let task = answer.into_inner().task.unwrap();
                let (id, told) = (task.id.clone(), task.ended_at.is_some().then_some(task));
                assert!(acknowledged.lock().unwrap().insert(id, (key, again, told)).is_none(), "two tasks with one id");
            }
            Err(status) if status.code() == tonic::Code::ResourceExhausted => {}
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_submit_reaches_one_truthful_end() {
    let (registry, home) = (Registry::start(), Home::new());
    let (hello, sleep) = (pushed(&home, &registry, "hello-p1"), pushed(&home, &registry, "sleep-p1"));
    let (kills, seed) = (number("VYR_KILLS", 6), number("VYR_SEED", 0x5eed_1234_abcd));
    let arguments = ["--max-running", "64", "--max-queued", "400"];
    let mut random = Random(seed | 1);
    let acknowledged = Acknowledged::default();
    for round in 0..kills {
        let node = Node::start(&home, &arguments);
        // Once everything is ready, most of the moments are those of tasks that run.
        let mut first = node.connect().await;
        for guest in [&hello, &sleep] {
            first.run(spec(guest, &["1"])).await;
        }
        let mut clients = Vec::new();
        for client in 0..4 {
            let connected = node.connect().await;
            let (hello, sleep) = (hello.clone(), sleep.clone());
            let seed = (round * 4 + client + 1) << 20 | 1;
            clients.push(tokio::spawn(load(connected, hello, sleep, seed, Arc::clone(&acknowledged))));
        }
        tokio::time::sleep(Duration::from_micros(1000 + random.below(500_000))).await;
        node.kill();
        for client in clients {
            client.await.unwrap();
        }
    }
    let node = Node::start(&home, &arguments);
    let mut client = node.connect().await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    let (mut ends, mut again, mut told) = (BTreeMap::<String, usize>::new(), 0, 0);
    for (id, (key, wanted, end)) in &acknowledged {
        let task = client.wait(id).await;
        if let Some(end) = end {
            assert_eq!(&task, end, "an end that was told is never taken back");
            told += 1;
        }
        assert_eq!(&task.idempotency_key, key);
        match task.status() {
            TaskStatus::Succeeded => assert_eq!(task.end.as_ref().unwrap().exit_code, Some(0)),
            TaskStatus::Lost => {
                assert!(!wanted, "{id} wanted to be run again");
                assert_eq!((task.attempt, task.end.as_ref().unwrap().reason()), (1, EndReason::NodeDied));
            }
            other => panic!("{id} ended as {other:?}: {task:?}"),
        }
        assert_eq!(task.attempt, task.interruptions + 1);
        if task.attempt > 1 {
            assert!(wanted, "{id} was run again unasked");
            again += 1;
        }
        // What it wrote is that of its attempts: none ran twice under one number.
        if task.status() == TaskStatus::Succeeded && task.spec.as_ref().unwrap().args == ["x"] {
            let request = StreamLogsRequest { id: id.clone(), ..StreamLogsRequest::default() };
            let mut pieces = client.0.stream_logs(request).await.unwrap().into_inner();
            let mut last = 0;
            while let Some(piece) = pieces.message().await.unwrap() {
                for entry in piece.entries.iter().filter(|e| e.attempt == task.attempt) {
                    last += String::from_utf8_lossy(&entry.data).matches("hello from wasm").count();
                }
            }
            assert_eq!(last, 1, "{id}: the last attempt wrote its line {last} times");
        }
        *ends.entry(format!("{:?}", task.status())).or_default() += 1;
    }
    assert!(told > 0 && ends.len() + again > 1, "the kills hit nothing: {ends:?}, {told} told, {again} again");
    // Every record has a key that some client sent, once: no task came out of nothing.
    let (mut listed, mut keys, mut token) = (0, std::collections::BTreeSet::new(), String::new());
    loop {
        let request = ListTasksRequest { page_size: 1000, page_token: token, ..ListTasksRequest::default() };
        let page = client.0.list_tasks(request).await.unwrap().into_inner();
        listed += page.tasks.len();
        for task in page.tasks {
            let key = task.idempotency_key;
            assert!(key.is_empty() || keys.insert(key.clone()), "the key {key} has two tasks");
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(listed >= acknowledged.len());
    eprintln!(
        "{kills} kills (VYR_SEED={seed}): {} submits acknowledged, {told} of them with their end, \
         ends {ends:?}, {again} run again as asked; {} tasks on \
         record, {} of them never acknowledged",
        acknowledged.len(),
        listed,
        listed - acknowledged.len()
    );
}

#[test]
fn a_node_that_can_not_start_has_not_looked_at_its_tasks() {
    let home = Home::new();
    // A folder stands where its address is to be, as a full disk would leave no room for it.
    let address = home.vyr_home().join("node.address");
    std::fs::create_dir_all(address.join("in the way")).unwrap();
    let words = ["could not start the node", "node.address can't be written"];
    home.vyr(["serve", "--listen", "127.0.0.1:0"]).expect(125).says(&words);
    // Had it taken them up, guests would run in a process that ends.
    assert!(!home.vyr_home().join("db/tasks.sqlite").exists());
    std::fs::remove_dir_all(&address).unwrap();
    drop(Node::start(&home, &[]));
    assert!(home.vyr_home().join("db/tasks.sqlite").exists());
}
