//! Submits a task, tells its changes on stderr, passes its output through and exits as it did.
//!
//! `cargo run -p vyr-client --example submit -- localhost:5000/hello:v1 one two`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to whoever runs it")]

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use vyr_client::v0::LogStream;
use vyr_client::{Client, Spec, TaskExt as _, Word as _};

#[tokio::main]
async fn main() -> ExitCode {
    match submit().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            // As `vyr` has it for what isn't the task's fault.
            ExitCode::from(125)
        }
    }
}

async fn submit() -> Result<u8, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let reference = words.next().ok_or("say which artifact: submit REFERENCE [ARGUMENT…]")?;
    let client = Client::connect().await?;
    let task = client.submit(Spec::new(reference).args(words).label("example", "submit")).await?;
    eprintln!("task {}", task.id);

    let changes = async {
        let mut watch = client.watch(&task.id);
        let mut last = task.clone();
        while let Some(change) = watch.next().await {
            last = change?;
            eprintln!("{}", last.status().word());
        }
        Ok::<_, vyr_client::Error>(last)
    };
    let output = async {
        let mut logs = client.logs(&task.id).follow();
        while let Some(entry) = logs.next().await {
            let entry = entry?;
            match entry.stream() {
                LogStream::Stderr => std::io::stderr().write_all(&entry.data)?,
                _ => std::io::stdout().write_all(&entry.data)?,
            }
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (ended, output) = tokio::join!(changes, output);
    output?;
    let ended = ended?;
    if let Err(failed) = ended.check() {
        eprintln!("{failed}");
    }
    Ok(ended.exit_code().unwrap_or(125))
}
