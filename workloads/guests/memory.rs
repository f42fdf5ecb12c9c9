//! Asks for memory by the MiB up to the bytes given, touching each page, and says how far it got.
//! Ends with 0 when it got everything, 3 when it was denied.

use std::process::ExitCode;

fn main() -> ExitCode {
    const STEP: usize = 1 << 20;
    let wanted: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1 << 30);
    let mut held: Vec<Vec<u8>> = Vec::new();
    while (held.len() as u64) * (STEP as u64) < wanted {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(STEP).is_err() {
            println!("denied after {} MiB", held.len());
            return ExitCode::from(3);
        }
        block.resize(STEP, 1);
        held.push(block);
    }
    println!("got {} MiB", std::hint::black_box(&held).len());
    ExitCode::SUCCESS
}
