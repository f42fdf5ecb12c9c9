//! Writes the number of bytes given (16 MiB without) to stdout, in lines of 64 bytes as far as they go.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let mut left: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(16 << 20);
    let line = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+\n";
    let block: Vec<u8> = line.iter().copied().cycle().take(1 << 16).collect();
    let mut stdout = std::io::stdout().lock();
    while left > 0 {
        let now = left.min(block.len());
        stdout.write_all(&block[..now])?;
        left -= now;
    }
    stdout.flush()
}
