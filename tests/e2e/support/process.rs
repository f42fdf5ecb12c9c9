//! Runs a command to its end, with what it wrote and a limit on how long that may take.

use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No command of these tests takes this long unless it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    command: String,
    /// The exit code; 128 + N for a signal N.
    pub(crate) status: i32,
    /// All of its stdout.
    pub(crate) stdout: String,
    /// All of its stderr.
    pub(crate) stderr: String,
    /// From start to end.
    pub(crate) took: Duration,
}

impl Output {
    /// Itself, when the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert!(
            self.status == code,
            "`{}` ended with {}, not {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Itself, when stderr has each of `words`.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{}` doesn't say `{word}`:\n{}", self.command, self.stderr);
        }
        self
    }

    /// Its standard output, which is one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Whether stdout has `line` as a whole line.
    pub(crate) fn has_line(&self, line: &str) -> bool {
        self.stdout.lines().any(|l| l == line)
    }
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs `command` with `stdin` and waits for it.
///
/// # Panics
/// When it can't be started, or still runs after two minutes.
#[track_caller]
pub(crate) fn run(mut command: Command, stdin: &[u8]) -> Output {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let out = reader(child.stdout.take().expect("piped"));
    let err = reader(child.stderr.take().expect("piped"));
    let mut input = child.stdin.take().expect("piped");
    let bytes = stdin.to_vec();
    let feeder = thread::spawn(move || {
        // A child that ended without reading is its own business.
        let _ = input.write_all(&bytes);
    });
    let status = loop {
        if let Some(status) = child.try_wait().unwrap_or_else(|e| panic!("{shown}: {e}")) {
            break status;
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`{shown}` still ran after {LIMIT:?}\n--- stderr\n{}", err.join().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let took = started.elapsed();
    let _ = feeder.join();
    Output {
        command: shown,
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: out.join().unwrap_or_default(),
        stderr: err.join().unwrap_or_default(),
        took,
    }
}
