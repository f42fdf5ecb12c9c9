//! `collector-verify DIR --seed S --count N`: proves at the centre that nothing is missing, nothing twice, and all in order.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use disconnected_collector::args::Args;
use disconnected_collector::device::acknowledged;
use disconnected_collector::verify::{Found, verify};

const USAGE: &str = "usage: collector-verify DIR --seed S --count N [--acked FILE] [--to FILE]
  DIR            what `vyr state pull REPOSITORY --to DIR` wrote
  --seed S       the device's seed
  --count N      the readings that have to be there: 1 to N
  --acked FILE   what the device was told is stored: it must be as many as are there
  --to FILE      writes all readings into one file, in their order";

fn check(args: &Args) -> Result<io::Result<Found>, String> {
    let [folder] = args.plain.as_slice() else { return Err("one folder is needed".into()) };
    let (seed, count) = (args.needed("--seed")?, args.needed("--count")?);
    let work = || {
        let mut copy: Box<dyn Write> = match args.text("--to") {
            Some(path) => Box::new(BufWriter::new(File::create(path)?)),
            None => Box::new(io::sink()),
        };
        let mut found = verify(Path::new(folder), seed, count, &mut copy)?;
        copy.flush()?;
        found.acknowledged = args.text("--acked").map(|file| acknowledged(Path::new(file))).transpose()?;
        Ok(found)
    };
    Ok(work())
}

fn main() -> ExitCode {
    let args = Args::parse(std::env::args().skip(1), &["--seed", "--count", "--acked", "--to"]);
    match args.and_then(|args| check(&args)) {
        Ok(Ok(found)) => {
            println!("{found}");
            found.remarks.iter().for_each(|remark| eprintln!("{remark}"));
            if found.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => {
            eprintln!("collector-verify: {error}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("collector-verify: {why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
