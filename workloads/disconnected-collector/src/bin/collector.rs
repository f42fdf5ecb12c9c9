//! `collector --from HOST:PORT --to /state/readings --count N`: stores a device's readings in a synced state.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use disconnected_collector::args::Args;
use disconnected_collector::device::{Device, Folder, MOST_READINGS, Socket};
use disconnected_collector::journal::{Appended, Journal, means_full};
use disconnected_collector::record::MAX_LINE;

const USAGE: &str = "usage: collector (--from HOST:PORT | --from-dir DIR) --to DIR --count N
  --from HOST:PORT    the device
  --from-dir DIR      the folder into which it writes its readings
  --to DIR            the state's folder: /state/ALIAS
  --count N           ends when the readings 1 to N are stored and shipped
  --roll-bytes SIZE   ships a file of this size (65536)
  --roll-seconds S    ships a file of this age (10)
  --first N           the number to begin with where nothing is stored yet (1)
  --max-bytes SIZE    ends with 75 when so much lies in the folder, for where nothing is taken from it meanwhile: a container";

const FLAGS: &[&str] =
    &["--from", "--from-dir", "--to", "--count", "--roll-bytes", "--roll-seconds", "--first", "--max-bytes"];

/// EX_TEMPFAIL: go on later.
const LATER: u8 = 75;
/// Between two questions to a device that had fewer readings than it was asked for, so that not each of them is a force to
/// disk of its own.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a device that is away is waited for when everything is stored and it only has to be told.
const LAST_WORD: Duration = Duration::from_secs(30);

/// Waits that double.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);

    fn new(most: Duration) -> Self {
        Self { next: Self::FIRST, most }
    }

    fn wait(&mut self) {
        sleep(self.next);
        self.next = (self.next * 2).min(self.most);
    }

    /// Says whether there was a wait before.
    fn reset(&mut self) -> bool {
        std::mem::replace(&mut self.next, Self::FIRST) != Self::FIRST
    }
}

#[derive(Debug)]
enum Source {
    Socket(String),
    Folder(PathBuf),
}

impl Source {
    fn connect(&self) -> io::Result<Box<dyn Device>> {
        match self {
            Self::Socket(address) => Ok(Box::new(Socket::connect(address)?)),
            Self::Folder(path) => Ok(Box::new(Folder::new(path))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => f.write_str(address),
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

#[derive(Debug)]
struct Options {
    source: Source,
    to: PathBuf,
    count: u64,
    roll_bytes: u64,
    roll_after: Duration,
    first: u64,
    max_bytes: Option<u64>,
}

impl Options {
    fn read(args: &Args) -> Result<Self, String> {
        if let Some(other) = args.plain.first() {
            return Err(format!("`{other}` belongs to no flag"));
        }
        let source = match (args.text("--from"), args.text("--from-dir")) {
            (Some(address), None) => Source::Socket(address.to_owned()),
            (None, Some(path)) => Source::Folder(path.into()),
            _ => return Err("one of --from and --from-dir is needed".into()),
        };
        Ok(Self {
            source,
            to: args.needed("--to")?,
            count: args.needed("--count")?,
            roll_bytes: args.number("--roll-bytes")?.unwrap_or(65536),
            roll_after: Duration::from_secs(args.number("--roll-seconds")?.unwrap_or(10)),
            first: args.number("--first")?.unwrap_or(1),
            max_bytes: args.number("--max-bytes")?,
        })
    }
}

/// Why a session with the device ended early.
#[derive(Debug)]
enum Ended {
    /// The device is away: again.
    Device(io::Error),
    /// The state's folder can't be used.
    Storage(io::Error),
    /// `--max-bytes` are there.
    Later,
}

#[derive(Debug)]
struct Collector {
    options: Options,
    journal: Journal,
    /// Since when there is something in the open file.
    since: Option<Instant>,
    device_away: Backoff,
    disk_full: Backoff,
    acknowledged: u64,
    sessions: u64,
    times_full: u64,
}

impl Collector {
    fn open(options: Options) -> io::Result<Self> {
        let journal = Journal::open(&options.to, options.first, options.roll_bytes)?;
        Ok(Self {
            since: (!journal.is_shipped()).then(Instant::now),
            journal,
            options,
            device_away: Backoff::new(Duration::from_secs(5)),
            disk_full: Backoff::new(Duration::from_secs(2)),
            acknowledged: 0,
            sessions: 0,
            times_full: 0,
        })
    }

    fn is_stored(&self) -> bool {
        self.journal.next() > self.options.count
    }

    /// Hands the open file over; waits where there is no room for another.
    fn ship(&mut self) -> Result<(), Ended> {
        loop {
            match self.journal.ship() {
                Err(error) if means_full(&error) => self.full(),
                done => break done.map_err(Ended::Storage)?,
            }
        }
        self.since = None;
        Ok(())
    }

    fn full(&mut self) {
        if self.disk_full.next == Backoff::FIRST {
            eprintln!("the state is full: readings from {} on stay with the device", self.journal.next());
        }
        self.times_full += 1;
        self.disk_full.wait();
    }

    fn tell(&mut self, device: &mut dyn Device) -> Result<(), Ended> {
        let stored = self.journal.next() - 1;
        if stored > self.acknowledged {
            device.acknowledge(stored).map_err(Ended::Device)?;
            self.acknowledged = stored;
        }
        Ok(())
    }

    /// From the connection to the device to the end of everything, or to an error.
    fn session(&mut self) -> Result<(), Ended> {
        let mut device = self.options.source.connect().map_err(Ended::Device)?;
        self.sessions += 1;
        // The device may not have heard it, or have forgotten it.
        self.acknowledged = 0;
        loop {
            self.tell(&mut *device)?;
            if self.is_stored() {
                return self.ship();
            }
            if self.since.is_some_and(|since| since.elapsed() >= self.options.roll_after) {
                self.ship()?;
            }
            let next = self.journal.next();
            let most = MOST_READINGS.min(self.options.count + 1 - next).min(self.room());
            if most == 0 {
                self.ship()?;
                return Err(Ended::Later);
            }
            let readings = device.read(next, most).map_err(Ended::Device)?;
            if self.device_away.reset() {
                eprintln!("the device {} is there again", self.options.source);
            }
            if !readings.is_empty() {
                let Appended { full, .. } = self.journal.append(&readings).map_err(Ended::Storage)?;
                match self.journal.is_shipped() {
                    true => self.since = None,
                    false => drop(self.since.get_or_insert_with(Instant::now)),
                }
                self.tell(&mut *device)?;
                self.after(full)?;
            }
            if (readings.len() as u64) < most && !self.is_stored() {
                sleep(PAUSE);
            }
        }
    }

    /// How many more readings `--max-bytes` lets in.
    fn room(&self) -> u64 {
        let room = |most: u64| most.saturating_sub(self.journal.held()) / MAX_LINE as u64;
        self.options.max_bytes.map_or(u64::MAX, room)
    }

    /// What is there is shipped, so that there will be room, and what isn't stays with the device for a while.
    fn after(&mut self, full: bool) -> Result<(), Ended> {
        if !full {
            if self.disk_full.reset() {
                eprintln!("there is room again");
            }
            return Ok(());
        }
        self.ship()?;
        self.full();
        Ok(())
    }

    fn run(&mut self) -> Result<(), Ended> {
        let mut stored_since = None;
        loop {
            let error = match self.session() {
                Err(Ended::Device(error)) => error,
                done => return done,
            };
            if error.kind() == io::ErrorKind::PermissionDenied {
                return Err(Ended::Device(error));
            }
            if self.is_stored() {
                self.ship()?;
                if stored_since.get_or_insert_with(Instant::now).elapsed() >= LAST_WORD {
                    eprintln!("all is stored; the device {} can't be told: {error}", self.options.source);
                    return Ok(());
                }
            }
            if self.device_away.next == Backoff::FIRST {
                eprintln!("the device {} is away: {error}", self.options.source);
            }
            self.device_away.wait();
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse(std::env::args().skip(1), FLAGS);
    let options = match args.and_then(|args| Options::read(&args)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("collector: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let failed = |folder: &Path, error: &io::Error| {
        eprintln!("collector: the readings could not be stored in {}: {error}", folder.display());
        ExitCode::FAILURE
    };
    let to = options.to.clone();
    let mut collector = match Collector::open(options) {
        Ok(collector) => collector,
        Err(error) => return failed(&to, &error),
    };
    let (resumed, cut) = (collector.journal.next(), collector.journal.cut());
    let done = collector.run();
    let Collector { journal, acknowledged, sessions, times_full, .. } = &collector;
    println!(
        "{{\"stored\":{},\"acknowledged\":{acknowledged},\"resumed_at\":{resumed},\"shipped_files\":{},\
         \"torn_bytes_cut\":{cut},\"sessions\":{sessions},\"times_full\":{times_full}}}",
        journal.next() - 1,
        journal.shipped(),
    );
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Later) => ExitCode::from(LATER),
        Err(Ended::Storage(error)) => failed(&to, &error),
        Err(Ended::Device(error)) => {
            let source = &collector.options.source;
            eprintln!("collector: the device {source} may not be reached: {error}");
            ExitCode::FAILURE
        }
    }
}
