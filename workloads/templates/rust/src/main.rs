//! Adds up numbers: its arguments or, without any, the lines of its input.
//!
//! A guest has only what it is given: no file, no network and no variable otherwise. See README.md.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// A folder that outlives a run, where one is given: `vyr run --state totals REF`.
const STATE: &str = "/state/totals";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        let lines: Result<Vec<String>, io::Error> = io::stdin().lines().collect();
        words = lines.map_err(|e| format!("the input can't be read: {e}"))?;
    }
    let mut sum = 0.0;
    for word in &words {
        sum += number(word)?;
    }
    println!("{} numbers, sum {sum}", words.len());

    if Path::new(STATE).is_dir() {
        let file = Path::new(STATE).join("sum");
        let before = match fs::read_to_string(&file) {
            Ok(text) => number(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0.0,
            Err(e) => return Err(format!("{} can't be read: {e}", file.display())),
        };
        let total = before + sum;
        fs::write(&file, total.to_string()).map_err(|e| format!("{} can't be written: {e}", file.display()))?;
        println!("sum of all runs {total}");
    }
    Ok(())
}

fn number(word: &str) -> Result<f64, String> {
    let word = word.trim();
    word.parse().map_err(|_| format!("`{word}` is not a number"))
}
