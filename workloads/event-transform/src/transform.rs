//! The stream: each line judged, enriched or put aside, and the aggregates at the end.

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

#[cfg(all(target_os = "wasi", target_env = "p2"))]
use crate::ahead::File;
use crate::bytes::same;
use crate::event::{Accepted, Judge, LONGEST, Reason, Verdict};
use crate::failure::Failure;
use crate::input::{Lines, Part};
use crate::output::{self, Output};
use crate::reference::Reference;
use crate::windows::Windows;

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Read in this order; `-` is stdin.
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) reference: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) most_rows: usize,
}

/// What was done, exactly.
#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    bytes: u64,
    accepted: u64,
    filtered: u64,
    dead: [u64; Reason::ALL.len()],
}

impl Counts {
    fn json(&self, rows: usize) -> String {
        let Self { lines, bytes, accepted, filtered, dead } = self;
        let reasons: Vec<_> =
            Reason::ALL.iter().zip(dead).map(|(reason, count)| format!("\"{}\":{count}", reason.word())).collect();
        let (all, reasons) = (dead.iter().sum::<u64>(), reasons.join(","));
        format!(
            "{{\"lines\":{lines},\"bytes\":{bytes},\"accepted\":{accepted},\"filtered\":{filtered},\"dead\":{all},\"reasons\":{{{reasons}}},\"rows\":{rows}}}\n"
        )
    }
}

struct Transform {
    judge: Judge,
    windows: Windows,
    enriched: Output,
    dead: Output,
    raw: Output,
    counts: Counts,
    /// The length so far of a line that comes in parts.
    long: u64,
}

/// Does all of it; the counts as a line of JSON.
pub(crate) fn run(plan: &Plan) -> Result<String, Failure> {
    let reference = Reference::read(&plan.reference)?;
    output::folder(&plan.to)?;
    let mut transform = Transform {
        judge: Judge::new(reference),
        windows: Windows::new(plan.most_rows),
        enriched: Output::create(&plan.to, "enriched.ndjson")?,
        dead: Output::create(&plan.to, "dead.ndjson")?,
        raw: Output::create(&plan.to, "dead.raw")?,
        counts: Counts::default(),
        long: 0,
    };
    let mut csv = Output::create(&plan.to, "windows.csv")?;
    for input in &plan.inputs {
        if input.as_os_str() == "-" {
            transform.read(stdin().lock(), Path::new("stdin"))?;
        } else {
            let file = File::open(input).map_err(|error| unreadable(input, &error))?;
            transform.read(file, input)?;
        }
    }
    csv.buffer()?.extend(transform.windows.csv(transform.judge.sites()));
    for output in [csv, transform.enriched, transform.dead, transform.raw] {
        output.close()?;
    }
    Ok(transform.counts.json(transform.windows.rows()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::at("read", path, error, "see that it is there and may be read; what was written so far is not complete")
}

impl Transform {
    fn read(&mut self, stream: impl Read, path: &Path) -> Result<(), Failure> {
        let mut lines = Lines::new(stream, LONGEST);
        while let Some(part) = lines.next().map_err(|error| unreadable(path, &error))? {
            self.take(&part)?;
        }
        self.counts.bytes += lines.bytes;
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self, part: &Part<'_>) -> Result<(), Failure> {
        if !(part.begins && part.ends) {
            return self.take_long(part);
        }
        self.counts.lines += 1;
        match self.judge.judge(part.bytes) {
            Verdict::Accepted(event) => {
                self.counts.accepted += 1;
                enrich(&event, self.enriched.buffer()?);
                let Accepted { seconds, value, device, .. } = event;
                self.windows
                    .add(seconds, device.site, &event.kind.decoded(), value)
                    .map_err(|_| too_many_rows(self.windows.rows()))
            }
            Verdict::Filtered => {
                self.counts.filtered += 1;
                Ok(())
            }
            Verdict::Dead(reason) => {
                self.raw.buffer()?.extend(part.bytes);
                self.put_aside(reason, part.bytes.len() as u64)
            }
        }
    }

    /// A line longer than any that is judged: through to where the dead are, a part at a time.
    #[cold]
    fn take_long(&mut self, part: &Part<'_>) -> Result<(), Failure> {
        if part.begins {
            self.counts.lines += 1;
            self.long = 0;
        }
        self.long += part.bytes.len() as u64;
        self.raw.buffer()?.extend(part.bytes);
        if part.ends { self.put_aside(Reason::TooLong, self.long) } else { Ok(()) }
    }

    /// Ends a dead line, whose bytes are written.
    #[cold]
    fn put_aside(&mut self, reason: Reason, length: u64) -> Result<(), Failure> {
        self.raw.buffer()?.push(b'\n');
        self.counts.dead[reason as usize] += 1;
        let (line, word) = (self.counts.lines, reason.word());
        let entry = format!("{{\"line\":{line},\"bytes\":{length},\"reason\":\"{word}\"}}\n");
        self.dead.buffer()?.extend(entry.as_bytes());
        Ok(())
    }
}

#[cold]
fn too_many_rows(rows: usize) -> Failure {
    Failure::new(
        "aggregate the events",
        format!("their windows, sites and types make more than {rows} rows, which are held in memory"),
        "allow more by --max-rows, or give less input at once",
    )
}

/// Appends the event with what is known of its source.
#[inline(never)]
fn enrich(event: &Accepted<'_>, out: &mut Vec<u8>) {
    match as_it_stands(event) {
        Some(head) => out.extend_from_slice(head),
        None => write_head(event, out),
    }
    out.extend_from_slice(&event.device.middle);
    out.extend_from_slice(event.digits);
    out.extend_from_slice(b"}}\n");
}

const BEGIN: &[u8] = b"{\"specversion\":\"1.0\",\"id\":\"";
const SOURCE: &[u8] = b"\",\"source\":\"";
const TYPE: &[u8] = b"\",\"type\":\"";
const TIME: &[u8] = b"\",\"time\":\"";

/// The beginning of an event's line up to its time, where that is the same in the output, as it is of most.
#[inline(always)]
fn as_it_stands<'a>(event: &Accepted<'a>) -> Option<&'a [u8]> {
    let Accepted { line, .. } = event;
    let (id, source, kind, time) =
        (event.id.verbatim()?, event.source.verbatim()?, event.kind.verbatim()?, event.time.verbatim()?);
    let between = |from: usize, to: usize, text: &[u8]| line.get(from..to).is_some_and(|found| same(found, text));
    let stands = between(0, id.start, BEGIN)
        && between(id.end, source.start, SOURCE)
        && between(source.end, kind.start, TYPE)
        && between(kind.end, time.start, TIME);
    line.get(..time.end).filter(|_| stands)
}

#[cold]
fn write_head(event: &Accepted<'_>, out: &mut Vec<u8>) {
    for (before, text) in [(BEGIN, event.id), (SOURCE, event.source), (TYPE, event.kind), (TIME, event.time)] {
        out.extend_from_slice(before);
        text.write_to(out);
    }
}
