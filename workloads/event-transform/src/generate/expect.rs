//! What has to come of the data: counts, and the digest of each output.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{Event, Plan, site};

/// All reasons that a line may be dead for, in the order of the contract.
pub(super) const REASONS: [&str; 18] = [
    "too_long",
    "empty",
    "not_utf8",
    "too_deep",
    "not_json",
    "lone_surrogate",
    "not_object",
    "duplicate_key",
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "data",
    "value_missing",
    "value_not_integer",
    "value_out_of_range",
    "unknown_source",
];

/// A file that isn't written here: its size and digest.
#[derive(Debug, Default)]
pub(super) struct Summed {
    bytes: u64,
    hash: Sha256,
}

impl Summed {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn json(&self) -> String {
        let digest: String = self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!(r#"{{"bytes":{},"sha256":"{digest}"}}"#, self.bytes)
    }
}

struct Row {
    count: u64,
    sum: i128,
    min: i64,
    max: i64,
}

#[derive(Default)]
pub(super) struct Expected {
    accepted: u64,
    pub(super) filtered: u64,
    reasons: BTreeMap<&'static str, u64>,
    rows: BTreeMap<(i64, &'static str, String), Row>,
    enriched: Summed,
    dead: Summed,
    raw: Summed,
}

impl Expected {
    pub(super) fn good(&mut self, event: &Event) {
        self.accepted += 1;
        self.enriched.add(event.enriched().as_bytes());
        self.enriched.add(b"\n");
        let minute = event.seconds - event.seconds.rem_euclid(60);
        let row = self.rows.entry((minute, site(event.device), event.kind.clone())).or_insert(Row {
            count: 0,
            sum: 0,
            min: i64::MAX,
            max: i64::MIN,
        });
        row.count += 1;
        row.sum += i128::from(event.value);
        row.min = row.min.min(event.value);
        row.max = row.max.max(event.value);
    }

    pub(super) fn dead(&mut self, line: u64, reason: &'static str, bytes: &[u8]) {
        *self.reasons.entry(reason).or_default() += 1;
        let length = bytes.len();
        self.dead.add(format!("{{\"line\":{line},\"bytes\":{length},\"reason\":\"{reason}\"}}\n").as_bytes());
        self.raw.add(bytes);
        self.raw.add(b"\n");
    }

    fn windows(&self) -> Summed {
        let mut windows = Summed::default();
        windows.add(b"window,site,type,count,sum,min,max\n");
        for ((minute, site, kind), Row { count, sum, min, max }) in &self.rows {
            // Sites are plain; some types are made not to be.
            let kind = if kind.contains([',', '"', '\r', '\n']) {
                format!("\"{}\"", kind.replace('"', "\"\""))
            } else {
                kind.clone()
            };
            windows.add(format!("{minute},{site},{kind},{count},{sum},{min},{max}\n").as_bytes());
        }
        windows
    }

    pub(super) fn json(&self, plan: &Plan, devices: &Summed, events: &Summed) -> String {
        let count = |reason| self.reasons.get(reason).copied().unwrap_or(0);
        let reasons = REASONS.map(|reason| format!(r#""{reason}":{}"#, count(reason))).join(",");
        let dead: u64 = self.reasons.values().sum();
        let rows = self.rows.values();
        let sum: i128 = rows.clone().map(|row| row.sum).sum();
        let (min, max) =
            (rows.clone().map(|row| row.min).min().unwrap_or(0), rows.map(|row| row.max).max().unwrap_or(0));
        let Self { accepted, filtered, .. } = self;
        let files = [
            ("enriched.ndjson", &self.enriched),
            ("windows.csv", &self.windows()),
            ("dead.ndjson", &self.dead),
            ("dead.raw", &self.raw),
        ];
        let outputs = files.map(|(name, summed)| format!("    \"{name}\": {}", summed.json())).join(",\n");
        format!(
            r#"{{
  "seed": {},
  "events": {},
  "inputs": {{
    "events.ndjson": {},
    "devices.csv": {}
  }},
  "counts": {{"lines":{},"bytes":{},"accepted":{accepted},"filtered":{filtered},"dead":{dead},"reasons":{{{reasons}}},"rows":{}}},
  "totals": {{"sum":{sum},"min":{min},"max":{max}}},
  "outputs": {{
{outputs}
  }}
}}
"#,
            plan.seed,
            plan.events,
            events.json(),
            devices.json(),
            plan.events,
            events.bytes,
            self.rows.len(),
        )
    }
}
