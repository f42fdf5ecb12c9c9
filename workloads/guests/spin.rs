//! Never ends and never calls the host: what only an epoch interruption stops. Says so first.

use std::io::Write as _;

fn main() {
    println!("spinning");
    let _ = std::io::stdout().flush();
    let mut count = 0_u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}
