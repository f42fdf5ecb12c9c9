//! Connects by TCP to the address given, sends `ping` and a newline, prints the answer's first line.
//! Ends with 0 when there was an answer, 4 (as a component: 1) when the connection was denied or failed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;

fn talk(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"ping\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: net HOST:PORT");
        return ExitCode::from(2);
    };
    match talk(&address) {
        Ok(line) => {
            print!("answer {line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("denied {error}");
            ExitCode::from(4)
        }
    }
}
