//! `device-simulator --listen ADDR --seed S --rate R`: a device that makes readings and keeps them until they are stored.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use disconnected_collector::args::Args;
use disconnected_collector::device::{
    ACKNOWLEDGED, LONGEST_WAIT, MOST_READINGS, acknowledged, files, read_line, write_acknowledged,
};
use disconnected_collector::record::Reading;

const USAGE: &str = "usage: device-simulator (--listen ADDR | --to-dir DIR --count N) --seed S --rate R
  --listen ADDR   serves readings at this address; with port 0 a free one. The first line on stdout says which
  --to-dir DIR    writes the readings 1 to N into files of this folder instead, and ends
  --seed S        which device it is: it decides every reading
  --rate R        readings a second; with 0 all there will ever be are there from the beginning
  --acked FILE    keeps the highest number that it was told is stored in this file; - writes each to stdout";

const FLAGS: &[&str] = &["--listen", "--to-dir", "--count", "--seed", "--rate", "--acked"];

/// After which silence a collector counts as gone. One that waits for room is silent for some seconds.
const IDLE: Duration = Duration::from_secs(60);
/// Readings in one file of a folder.
const FILE_READINGS: u64 = 1000;
/// Files that a folder may have before the device waits until some are stored.
const MOST_FILES: usize = 64;

/// Where the acknowledged number is shown.
#[derive(Debug)]
enum Shown {
    Nowhere,
    Stdout,
    File(PathBuf),
}

/// The device: it makes readings by the clock, and holds none, since it can make each of them again.
#[derive(Debug)]
struct Device {
    seed: u64,
    rate: f64,
    began: Instant,
    /// What it had made when it was switched on.
    base: u64,
    acked: Mutex<u64>,
    shown: Shown,
}

impl Device {
    fn acked(&self) -> MutexGuard<'_, u64> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the newest reading.
    fn newest(&self) -> u64 {
        if self.rate <= 0.0 {
            return u64::MAX;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut to whole readings")]
        let made = (self.began.elapsed().as_secs_f64() * self.rate) as u64;
        // What is stored has been made, even where it doesn't remember that.
        self.base.saturating_add(made).max(*self.acked())
    }

    /// The readings from `from` on, at most `most` of them; waits a moment for the first one.
    fn readings(&self, from: u64, most: u64) -> Vec<u8> {
        let acked = *self.acked();
        if from <= acked {
            // A device that holds its readings would have given them away.
            eprintln!("asked for reading {from} after {acked} were acknowledged");
        }
        let began = Instant::now();
        let newest = loop {
            let newest = self.newest();
            if newest >= from || began.elapsed() >= LONGEST_WAIT {
                break newest;
            }
            thread::sleep(Duration::from_millis(10));
        };
        let end = newest.saturating_add(1).min(from.saturating_add(most)).max(from);
        let mut bytes = Vec::new();
        (from..end).for_each(|seq| Reading::simulated(self.seed, seq).write(&mut bytes));
        bytes.extend_from_slice(format!("end {}\n", end - from).as_bytes());
        bytes
    }

    /// Everything up to `seq` is stored. Says what the highest such number is.
    fn acknowledge(&self, seq: u64) -> io::Result<u64> {
        let mut acked = self.acked();
        if seq > *acked {
            match &self.shown {
                Shown::Nowhere => {}
                Shown::Stdout => writeln!(io::stdout(), "{seq}")?,
                Shown::File(path) => write_acknowledged(path, seq)?,
            }
            *acked = seq;
        }
        Ok(*acked)
    }

    /// The answer to a line; `None` when it makes no sense.
    fn answer(&self, line: &[u8]) -> Option<io::Result<Vec<u8>>> {
        let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
        match words.as_slice() {
            ["read", from, most] => {
                let (from, most) = (from.parse().ok().filter(|from| *from > 0)?, most.parse::<u64>().ok()?);
                Some(Ok(self.readings(from, most.min(MOST_READINGS))))
            }
            ["ack", seq] => {
                let acked = self.acknowledge(seq.parse().ok()?);
                Some(acked.map(|acked| format!("acked {acked}\n").into_bytes()))
            }
            _ => None,
        }
    }

    /// Serves one collector until it goes.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(IDLE))?;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while read_line(&mut lines, &mut line)?.is_some() {
            let Some(answer) = self.answer(&line) else {
                let why = "error say `read FROM MOST` or `ack NUMBER`\n";
                return lines.get_mut().write_all(why.as_bytes());
            };
            lines.get_mut().write_all(&answer?)?;
        }
        Ok(())
    }

    /// Serves whoever comes, for ever.
    fn listen(&'static self, address: &str) -> io::Result<()> {
        let listener = TcpListener::bind(address)?;
        let mut out = io::stdout();
        writeln!(out, "listening on {}", listener.local_addr()?)?;
        out.flush()?;
        loop {
            let (stream, _) = listener.accept()?;
            thread::spawn(move || {
                if let Err(error) = self.serve(stream) {
                    eprintln!("a collector has gone: {error}");
                }
            });
        }
    }

    /// Writes the readings up to `count` into files, as they are made, and removes those that are stored.
    fn write_files(&self, folder: &Path, count: u64) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut seq = self.base + 1;
        while seq <= count {
            while self.remove_stored(folder)? > MOST_FILES {
                thread::sleep(Duration::from_millis(20));
            }
            let mut file = File::create(folder.join(format!("{seq:012}.ndjson")))?;
            let last = count.min(seq + FILE_READINGS - 1);
            while seq <= last {
                let end = self.newest().min(last);
                let mut bytes = Vec::new();
                (seq..=end).for_each(|seq| Reading::simulated(self.seed, seq).write(&mut bytes));
                file.write_all(&bytes)?;
                seq = seq.max(end.saturating_add(1));
                if seq <= last {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        Ok(())
    }

    /// Says how many files there are.
    fn remove_stored(&self, folder: &Path) -> io::Result<usize> {
        let stored = acknowledged(&folder.join(ACKNOWLEDGED))?;
        let files = files(folder)?;
        let mut left = files.len();
        // A file's last reading is the one before the next file's first.
        for ((_, path), (next, _)) in files.iter().zip(files.iter().skip(1)) {
            if *next <= stored + 1 {
                fs::remove_file(path)?;
                left -= 1;
            }
        }
        Ok(left)
    }
}

fn run(args: &Args) -> Result<io::Result<()>, String> {
    if let Some(other) = args.plain.first() {
        return Err(format!("`{other}` belongs to no flag"));
    }
    let (seed, rate) = (args.needed("--seed")?, args.needed::<f64>("--rate")?);
    let shown = match args.text("--acked") {
        None => Shown::Nowhere,
        Some("-") => Shown::Stdout,
        Some(path) => Shown::File(path.into()),
    };
    let base = match &shown {
        Shown::File(path) => acknowledged(path),
        _ => Ok(0),
    };
    let base = match base {
        Ok(base) => base,
        Err(error) => return Ok(Err(error)),
    };
    let device = Device { seed, rate, began: Instant::now(), base, acked: Mutex::new(base), shown };
    match (args.text("--listen"), args.text("--to-dir")) {
        // It lives as long as the process.
        (Some(address), None) => Ok(Box::leak(Box::new(device)).listen(address)),
        (None, Some(folder)) => {
            let count = args.needed("--count")?;
            Ok(device.write_files(Path::new(folder), count))
        }
        _ => Err("one of --listen and --to-dir is needed".into()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse(std::env::args().skip(1), FLAGS);
    match args.and_then(|args| run(&args)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("device-simulator: {error}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("device-simulator: {why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
