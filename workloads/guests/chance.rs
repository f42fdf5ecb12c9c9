//! Shows what differs from run to run: the time, how long something takes, chance, and the bits of a NaN. With an argument
//! it sleeps for so many seconds in between.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() {
    println!("first line");
    let began = Instant::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(seconds) = std::env::args().nth(1).and_then(|word| word.parse().ok()) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
    let zero = black_box(0.0_f64);
    println!("wall {}.{:09}", wall.as_secs(), wall.subsec_nanos());
    println!("took {} ns", began.elapsed().as_nanos());
    println!("chance {:016x}", RandomState::new().hash_one(0));
    println!("nan {:016x}", (zero / zero).to_bits());
}
