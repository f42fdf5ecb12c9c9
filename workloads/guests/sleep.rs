//! Sleeps in a host call for the milliseconds given (10 minutes without), then says that it woke.

use std::io::Write as _;

fn main() {
    let milliseconds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(600_000);
    println!("sleeping");
    let _ = std::io::stdout().flush();
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    println!("woke");
}
