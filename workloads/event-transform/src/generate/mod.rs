//! Makes the data and what has to come of it. What is expected follows from what a line was made to be; none of the
//! transform's code that reads, judges or adds up is called.

mod expect;
mod nasty;
mod text;

use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::random::Random;
use expect::{Expected, Summed};
use text::{json, time};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) events: u64,
    pub(crate) to: PathBuf,
}

const SITES: [&str; 12] =
    ["aarhus", "bilbao", "cork", "delft", "essen", "faro", "gävle", "hull", "izmir", "jena", "košice", "łódź"];
const DEVICES_OF_SITE: usize = 20;
const KINDS: [(&str, &str, u64); 3] = [
    ("com.example.reading.temperature", "mCel", 45_000),
    ("com.example.reading.humidity", "permille", 1_000),
    ("com.example.reading.pressure", "Pa", 110_000),
];
/// 2026-03-01T00:00:00Z, in milliseconds.
const BEGINS: i64 = 1_772_323_200_000;
/// How much time the events are spread over, in milliseconds.
const SPAN: u64 = 6 * 3_600_000;

/// What an event says.
#[derive(Debug, Clone)]
struct Event {
    id: String,
    device: usize,
    source: String,
    kind: String,
    unit: &'static str,
    time: String,
    seconds: i64,
    value: i64,
}

fn source(device: usize) -> String {
    format!("/plant-{:02}/dev-{device:04}", device / DEVICES_OF_SITE + 1)
}

fn site(device: usize) -> &'static str {
    SITES[device / DEVICES_OF_SITE]
}

fn zone(device: usize) -> String {
    format!("zone-{}", device % 3 + 1)
}

impl Event {
    fn make(random: &mut Random, seed: u64, number: u64, clock: i64) -> Self {
        let device = usize::try_from(random.below((SITES.len() * DEVICES_OF_SITE) as u64)).unwrap_or(0);
        let (kind, unit, most) = random.of(&KINDS);
        // One in fifty is late, by up to a quarter of an hour.
        let late = if random.chance(50) { random.below(900_000) } else { 0 };
        let at = clock - late.cast_signed();
        let value = random.below(most).cast_signed() - if unit == "mCel" { 15_000 } else { 0 };
        Self {
            id: format!("{seed}-{number:09}"),
            device,
            source: source(device),
            kind: kind.into(),
            unit,
            time: time(at),
            seconds: at.div_euclid(1000),
            value,
        }
    }

    /// As most events are written.
    fn plain(&self) -> String {
        let Self { id, source, kind, unit, time, value, .. } = self;
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"{kind}","time":"{time}","datacontenttype":"application/json","data":{{"value":{value},"unit":"{unit}"}}}}"#
        )
    }

    /// The line that has to come of it.
    fn enriched(&self) -> String {
        let Self { id, source, kind, time, value, device, .. } = self;
        format!(
            r#"{{"specversion":"1.0","id":{},"source":{},"type":{},"time":{},"site":{},"zone":{},"data":{{"value":{value}}}}}"#,
            json(id),
            json(source),
            json(kind),
            json(time),
            json(site(*device)),
            json(&zone(*device))
        )
    }
}

/// What a line was made to be.
enum Line {
    Good(Event, Vec<u8>),
    Filtered(Vec<u8>),
    Dead(&'static str, Vec<u8>),
}

fn line(random: &mut Random, event: Event) -> Line {
    match random.below(1000) {
        0..10 => {
            let (reason, bytes) = nasty::dead(random, &event);
            Line::Dead(reason, bytes)
        }
        10..30 => {
            let (event, bytes) = nasty::odd(random, event);
            Line::Good(event, bytes)
        }
        30..80 => Line::Filtered(nasty::heartbeat(random, &event)),
        _ => {
            let bytes = event.plain().into_bytes();
            Line::Good(event, bytes)
        }
    }
}

/// Does all of it; what is expected, as a line of JSON.
pub(crate) fn run(plan: &Plan) -> Result<String, Failure> {
    let Plan { seed, events, to } = plan;
    output::folder(to)?;
    let mut devices = "source,site,zone\n".to_owned();
    for device in 0..SITES.len() * DEVICES_OF_SITE {
        devices += &format!("{},{},{}\n", source(device), site(device), zone(device));
    }
    let mut table = Output::create(to, "devices.csv")?;
    table.buffer()?.extend(devices.as_bytes());
    table.close()?;
    let mut table = Summed::default();
    table.add(devices.as_bytes());

    let mut random = Random::new(*seed);
    let mut expected = Expected::default();
    let mut written = Summed::default();
    let mut out = Output::create(to, "events.ndjson")?;
    let mut clock = BEGINS;
    for number in 1..=*events {
        clock += random.below(2 * SPAN / events.max(&1) + 1).cast_signed();
        let event = Event::make(&mut random, *seed, number, clock);
        let mut bytes = match line(&mut random, event) {
            Line::Good(event, bytes) => {
                expected.good(&event);
                bytes
            }
            Line::Filtered(bytes) => {
                expected.filtered += 1;
                bytes
            }
            Line::Dead(reason, bytes) => {
                expected.dead(number, reason, &bytes);
                bytes
            }
        };
        bytes.push(b'\n');
        written.add(&bytes);
        out.buffer()?.extend(bytes);
    }
    out.close()?;
    let text = expected.json(plan, &table, &written);
    let mut out = Output::create(to, "expected.json")?;
    out.buffer()?.extend(text.as_bytes());
    out.close()?;
    Ok(String::new())
}
