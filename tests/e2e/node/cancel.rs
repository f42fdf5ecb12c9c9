//! Cancellation stops any guest, and says how long that took.

use std::time::{Duration, Instant};

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, spec};

#[tokio::test]
async fn whatever_a_guest_does_it_ends_and_again_is_no_error() {
    let (registry, home) = (Registry::start(), Home::new());
    let guests = ["spin-p1", "spin", "sleep-p1", "sleep"].map(|g| pushed(&home, &registry, g));
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    for guest in &guests {
        let task = client.submit(spec(guest, &[])).await;
        client.until(&task.id, TaskStatus::Running).await;
        let asked = Instant::now();
        let ended = client.cancel(&task.id).await;
        assert_eq!(ended.status(), TaskStatus::Cancelled, "{ended:?}");
        let end = ended.end.clone().unwrap();
        assert_eq!(end.reason(), EndReason::CancelledByClient);
        let told = Duration::try_from(end.cancel_latency.unwrap()).unwrap();
        assert!(told <= asked.elapsed() && told > Duration::ZERO, "{told:?}");
        assert_eq!(client.cancel(&task.id).await, ended, "it stays as it is");
    }
    let unknown = CancelTaskRequest { id: "01a213d9-6b35-7763-a12b-196331e176a7".into(), wait: None };
    assert_eq!(client.0.cancel_task(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_hundred_loops_delay_neither_a_cancel_nor_a_start_by_their_turns() {
    let (registry, home) = (Registry::start(), Home::new());
    let (spin, hello) = (pushed(&home, &registry, "spin-p1"), pushed(&home, &registry, "hello-p1"));
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    client.run(spec(&hello, &[])).await;
    let mut loops = Vec::new();
    for _ in 0..100 {
        loops.push(client.submit(spec(&spin, &[])).await.id);
    }
    for id in &loops {
        client.until(id, TaskStatus::Running).await;
    }
    // Each of the hundred has its turn once in half a second; none of these waits for that.
    let (mut cancels, mut starts) = (Vec::new(), Vec::new());
    for id in loops.drain(..50) {
        let ended = client.cancel(&id).await;
        assert_eq!(ended.status(), TaskStatus::Cancelled);
        cancels.push(Duration::try_from(ended.end.unwrap().cancel_latency.unwrap()).unwrap());
        let ran = client.run(spec(&hello, &[])).await;
        starts.push(Duration::try_from(ran.execution.unwrap().submit_to_start.unwrap()).unwrap());
    }
    cancels.sort();
    starts.sort();
    // A turn is 10 ms: with fifty ahead it would be 250 ms. The machine may be busy; half of them can't all be unlucky.
    assert!(cancels[25] < Duration::from_millis(100), "{cancels:?}");
    assert!(starts[25] < Duration::from_millis(100), "{starts:?}");
}
