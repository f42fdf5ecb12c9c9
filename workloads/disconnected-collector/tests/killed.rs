//! The native collector, killed again and again, with a device whose connection breaks, against what the verifier says.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use disconnected_collector::device::acknowledged;
use disconnected_collector::journal::{Journal, shipped_range};
use disconnected_collector::verify::{Found, verify};

const SEED: u64 = 11;
const COLLECTOR: &str = env!("CARGO_BIN_EXE_collector");
const SIMULATOR: &str = env!("CARGO_BIN_EXE_device-simulator");

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A folder that goes with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("collector-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("centre/outbox")).unwrap();
        fs::create_dir(path.join("state")).unwrap();
        Self(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// What a node does: takes what was shipped, in its order, so that the collector doesn't see it any more.
    fn take(&self, place: &mut u64) {
        let Ok(outbox) = fs::read_dir(self.state().join("outbox")) else { return };
        let mut names: Vec<_> = outbox.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| shipped_range(name).is_some());
        names.sort();
        for name in names {
            *place += 1;
            let to = self.0.join("centre/outbox").join(format!("{place:012}-{name}"));
            fs::rename(self.state().join("outbox").join(name), to).unwrap();
        }
    }

    fn verify(&self, count: u64) -> Found {
        verify(&self.0.join("centre"), SEED, count, &mut std::io::sink()).unwrap()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running device.
struct Device {
    child: Child,
    address: String,
}

impl Device {
    fn start(acked: &Path) -> Self {
        let mut child = Command::new(SIMULATOR)
            .args(["--listen", "127.0.0.1:0", "--seed", &SEED.to_string(), "--rate", "0", "--acked"])
            .arg(acked)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collector(from: &[&str], state: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(COLLECTOR);
    command.args(from).arg("--to").arg(state).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(mut child: Child) -> (ExitStatus, String) {
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status, said)
}

/// Lets each connection to `to` live for a number of bytes, in either direction.
fn breaking(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut chance = Chance(5);
        for stream in listener.incoming() {
            let (mut near, mut far) = (stream.unwrap(), TcpStream::connect(&to).unwrap());
            let (mut near_back, mut far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let (there, back) = (50 + chance.below(2_000), chance.below(200_000));
            let pass = move |from: &mut TcpStream, to: &mut TcpStream, most: u64| {
                let mut buffer = [0; 1000];
                let mut passed = 0;
                while passed < most
                    && let Ok(got) = from.read(&mut buffer)
                    && got > 0
                {
                    let let_through = got.min(usize::try_from(most - passed).unwrap());
                    if to.write_all(&buffer[..let_through]).is_err() {
                        break;
                    }
                    passed += let_through as u64;
                }
                let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
            };
            thread::spawn(move || pass(&mut near_back, &mut far_back, there));
            thread::spawn(move || pass(&mut far, &mut near, back));
        }
    });
    address
}

#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_there_twice() {
    const COUNT: u64 = 30_000;
    let temp = Temp::new("killed");
    let acked = temp.0.join("acked");
    let device = Device::start(&acked);
    let mut chance = Chance(3);
    let (mut place, mut kills) = (0, 0);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < Duration::from_secs(120), "{kills} kills and no end");
        let more = ["--count", &COUNT.to_string(), "--roll-bytes", "3000"];
        let mut child = collector(&["--from", &device.address], &temp.state(), &more);
        thread::sleep(Duration::from_micros(2000 + chance.below(40_000)));
        if child.try_wait().unwrap().is_some() {
            let (status, said) = ended(child);
            assert!(status.success(), "{said}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        if chance.below(2) == 0 {
            temp.take(&mut place);
        }
        // What the device was told is there: it would not give it a second time.
        let told = acknowledged(&acked).unwrap();
        if chance.below(2) == 0 {
            let next = Journal::open(&temp.state(), 1, 3000).unwrap().next();
            assert!(next > told, "reading {next} comes next, and the device was told that {told} are stored");
        }
    }
    temp.take(&mut place);
    let found = temp.verify(COUNT);
    assert!(found.is_right(), "{found} {:?}", found.remarks);
    assert_eq!(acknowledged(&acked).unwrap(), COUNT);
    assert!(kills >= 10, "{kills} kills are no test");
    eprintln!("{kills} kills: {found}");
}

#[test]
fn a_connection_that_breaks_anywhere_is_made_again() {
    const COUNT: u64 = 20_000;
    let temp = Temp::new("breaks");
    let acked = temp.0.join("acked");
    let device = Device::start(&acked);
    let address = breaking(device.address.clone());
    let more = ["--count", &COUNT.to_string()];
    let (status, said) = ended(collector(&["--from", &address], &temp.state(), &more));
    assert!(status.success(), "{said}");
    temp.take(&mut 0);
    assert!(temp.verify(COUNT).is_right(), "{}", temp.verify(COUNT));
    assert_eq!(acknowledged(&acked).unwrap(), COUNT);
    let sessions = said.split("\"sessions\":").nth(1).and_then(|s| s.split(',').next()?.parse::<u64>().ok());
    assert!(sessions.is_some_and(|sessions| sessions >= 3), "{said}");
}

#[test]
fn from_a_folder_whose_device_removes_what_is_stored() {
    const COUNT: u64 = 70_000;
    let temp = Temp::new("folder");
    let folder = temp.0.join("device");
    fs::create_dir(&folder).unwrap();
    let writer = Command::new(SIMULATOR)
        .args(["--to-dir", folder.to_str().unwrap(), "--seed", &SEED.to_string(), "--rate", "0"])
        .args(["--count", &COUNT.to_string()])
        .spawn()
        .unwrap();
    let mut writer = Device { child: writer, address: String::new() };
    let more = ["--count", &COUNT.to_string(), "--roll-bytes", "1000000"];
    let (status, said) = ended(collector(&["--from-dir", folder.to_str().unwrap()], &temp.state(), &more));
    assert!(status.success(), "{said}");
    assert!(writer.child.wait().unwrap().success());
    assert!(fs::read_dir(&folder).unwrap().count() <= 66, "what is stored was removed");
    temp.take(&mut 0);
    assert!(temp.verify(COUNT).is_right(), "{}", temp.verify(COUNT));
}

#[test]
fn where_nothing_is_taken_it_ends_before_it_holds_too_much_and_goes_on_later() {
    const COUNT: u64 = 2_000;
    let temp = Temp::new("later");
    let device = Device::start(&temp.0.join("acked"));
    let more = ["--count", &COUNT.to_string(), "--max-bytes", "50000", "--roll-bytes", "9000"];
    let (mut place, mut ends) = (0, 0);
    loop {
        let (status, said) = ended(collector(&["--from", &device.address], &temp.state(), &more));
        let held = fs::read_dir(temp.state().join("outbox")).unwrap().map(|entry| entry.unwrap().path());
        let held: u64 = held.filter(|path| path.is_file()).map(|path| path.metadata().unwrap().len()).sum();
        assert!(held <= 50_000, "{held}");
        temp.take(&mut place);
        if status.success() {
            break;
        }
        assert_eq!(status.code(), Some(75), "{said}");
        ends += 1;
    }
    assert_eq!(ends, 2);
    assert!(temp.verify(COUNT).is_right(), "{}", temp.verify(COUNT));
}
