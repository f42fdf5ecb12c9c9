//! Shows what the host gave it: arguments, environment, the folder `/` and those named by `--ls PATH`,
//! then copies stdin to stdout. `--exit N` is the code it ends with.
//!
//! One fact a line (`arg 1 x`, `env K=V`, `dir PATH: name name`), so that a test can look for whole lines.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut code = 0;
    let mut folders = Vec::new();
    for (at, argument) in arguments.iter().enumerate() {
        println!("arg {} {argument}", at + 1);
        match argument.as_str() {
            "--exit" => code = arguments.get(at + 1).and_then(|n| n.parse().ok()).unwrap_or(2),
            "--ls" => folders.extend(arguments.get(at + 1).cloned()),
            _ => {}
        }
    }
    for (name, value) in std::env::vars() {
        println!("env {name}={value}");
    }
    for folder in folders {
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                let mut names: Vec<String> =
                    entries.filter_map(|e| e.ok().map(|e| e.file_name().to_string_lossy().into_owned())).collect();
                names.sort();
                println!("dir {folder}: {}", names.join(" "));
            }
            Err(error) => println!("dir {folder}: no: {error}"),
        }
    }
    println!("stdin");
    let copied = std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap_or(0);
    let _ = std::io::stdout().flush();
    eprintln!("copied {copied} bytes");
    ExitCode::from(code)
}
