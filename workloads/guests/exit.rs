//! Ends with the code given as its first argument, 0 without one.

fn main() {
    let code = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    std::process::exit(code);
}
