//! Submits a task, waits until it runs, and cancels it.
//!
//! `cargo run -p vyr-client --example cancel -- localhost:5000/sleep:v1`

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::error::Error;
use std::time::Duration;

use vyr_client::v0::TaskStatus;
use vyr_client::{Client, Spec, TaskExt as _, Word as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let reference = words.next().ok_or("say which artifact: cancel REFERENCE [ARGUMENT…]")?;
    let client = Client::connect().await?;
    let task = client.submit(Spec::new(reference).args(words).timeout(Duration::from_secs(600))).await?;

    let mut watch = client.watch(&task.id);
    while let Some(change) = watch.next().await {
        let change = change?;
        println!("{}", change.status().word());
        if change.status() == TaskStatus::Running {
            break;
        }
    }
    let ended = client.cancel(&task.id, Some(Duration::from_secs(10))).await?;
    let reason = ended.end.as_ref().map_or("not yet ended", |end| end.reason().word());
    println!("{} ({reason}), exit code {:?}", ended.status().word(), ended.exit_code());
    Ok(())
}
