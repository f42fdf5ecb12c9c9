//! Says what it was given, and sorts its standard input in a thread.

use std::io::Read;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("{} words: {}", words.len(), words.join("|"));
    let sorted = std::thread::spawn(|| {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).expect("standard input");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    });
    for line in sorted.join().expect("the thread") {
        println!("{line}");
    }
}
