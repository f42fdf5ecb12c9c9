//! `vyr-guests all` or `vyr-guests NAME…`: builds guests and prints a path a line; without arguments, their names.
//! `vyr-guests assemble FOLDER FILE.wat…`: makes Wasm of files in the text format, into a folder, and prints a path a line.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout().lock();
    let mut say = |line: &str| writeln!(out, "{line}").is_ok();
    if wanted.is_empty() {
        return if vyr_guests::names().all(&mut say) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let [verb, folder, files @ ..] = wanted.as_slice()
        && verb == "assemble"
    {
        for file in files {
            match vyr_guests::assemble(Path::new(file), Path::new(folder)) {
                Ok(path) if say(&path.display().to_string()) => {}
                Ok(_) => return ExitCode::FAILURE,
                Err(error) => {
                    let _ = writeln!(std::io::stderr(), "vyr-guests: could not assemble {file}: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        return ExitCode::SUCCESS;
    }
    let names = wanted.iter().flat_map(|name| match name.as_str() {
        "all" => vyr_guests::names().map(str::to_owned).collect(),
        one => vec![one.to_owned()],
    });
    for name in names {
        match vyr_guests::build(&name) {
            Ok(path) if say(&path.display().to_string()) => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "vyr-guests: could not build `{name}`: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
