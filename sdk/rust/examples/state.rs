//! Makes a state, runs a task for each argument with it as the folder `/state/notes`, and removes it.
//!
//! `cargo run -p vyr-client --example state -- localhost:5000/state:v1 text:/state/notes/a:hello read:/state/notes/a`

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::error::Error;

use vyr_client::v0::StateClass;
use vyr_client::{Client, Spec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let reference = words.next().ok_or("say which artifact: state REFERENCE ARGUMENT…")?;
    let client = Client::connect().await?;
    let state = client.create_state("notes", StateClass::Node).quota_bytes(1 << 20).await?;

    for argument in words {
        let outcome = client.run(Spec::new(&reference).arg(argument).state("notes", &state.name)).await?;
        outcome.check()?;
        print!("{}", outcome.stdout_text());
    }
    let state = client.get_state(&state.name).await?;
    println!("{} of {} bytes used", state.used_bytes, state.quota_bytes);
    client.delete_state(&state.name).await?;
    Ok(())
}
