//! Lines that are hard: good ones that are written oddly, and bad ones of every kind.

use super::expect::REASONS;
use super::text::{all_escaped, json};
use super::{Event, source};
use crate::random::Random;

/// The most bytes of a line that is read.
const LONGEST: usize = 65_536;

/// An event taken apart into names and values, each as it stands in JSON.
struct Members(Vec<(String, String)>);

impl Members {
    fn of(event: &Event) -> Self {
        let data = format!(r#"{{"value":{},"unit":"{}"}}"#, event.value, event.unit);
        let member = |name: &str, value: String| (json(name), value);
        Self(vec![
            member("specversion", "\"1.0\"".into()),
            member("id", json(&event.id)),
            member("source", json(&event.source)),
            member("type", json(&event.kind)),
            member("time", json(&event.time)),
            member("datacontenttype", "\"application/json\"".into()),
            member("data", data),
        ])
    }

    fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        let (name, value) = (json(name), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(member) => member.1 = value,
            None => self.0.insert(4, (name, value)),
        }
        self
    }

    /// One more, whatever is there already; the name as it stands.
    fn more(mut self, random: &mut Random, name: &str, value: &str) -> Self {
        let at = usize::try_from(random.below(self.0.len() as u64 + 1)).unwrap_or(0);
        self.0.insert(at, (name.into(), value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        let name = json(name);
        self.0.retain(|(known, _)| *known != name);
        self
    }

    /// With a data object of one member.
    fn value(self, value: &str) -> Self {
        self.set("data", format!(r#"{{"unit":"x","value":{value}}}"#))
    }

    fn shuffled(mut self, random: &mut Random) -> Self {
        for end in (1..self.0.len()).rev() {
            let other = usize::try_from(random.below(end as u64 + 1)).unwrap_or(0);
            self.0.swap(end, other);
        }
        self
    }

    fn joined(&self, colon: &str, comma: &str) -> Vec<u8> {
        let members: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}{colon}{value}")).collect();
        format!("{{{}}}", members.join(comma)).into_bytes()
    }

    fn line(&self) -> Vec<u8> {
        self.joined(":", ",")
    }
}

fn nested(levels: usize) -> String {
    if levels.is_multiple_of(2) {
        format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
    } else {
        format!("{}null{}", "{\"n\":".repeat(levels), "}".repeat(levels))
    }
}

fn padded(event: &Event, length: usize) -> Vec<u8> {
    let mut bytes = event.plain().into_bytes();
    bytes.resize(length, b' ');
    bytes
}

/// A good event written as few are, and what it says then.
pub(super) fn odd(random: &mut Random, mut event: Event) -> (Event, Vec<u8>) {
    let bytes = match random.below(20) {
        0 => [event.plain().as_bytes(), b"\r"].concat(),
        1 => [b" \t", &*Members::of(&event).joined(" :\t", " , "), b" \r\t"].concat(),
        2 | 3 => Members::of(&event).shuffled(random).line(),
        4 | 5 => Members::of(&event)
            .more(random, "\"subject\"", r#""kælder \ud83d\ude00 / 地下""#)
            .more(random, "\"traceparent\"", r#""00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#)
            .more(random, "\"parts\"", r#"[1,-2.50e+3,1e999,true,false,null,[],{},{"a":[{"a":"\\\""}]}]"#)
            .line(),
        6 => {
            let capitals = random.chance(2);
            let members = Members::of(&event).set("source", all_escaped(&event.source, capitals));
            members
                .set("type", all_escaped(&event.kind, !capitals))
                .set("time", all_escaped(&event.time, capitals))
                .line()
        }
        7 => {
            let data = format!(r#"{{"\u0076alue":{}}}"#, event.value);
            let mut members = Members::of(&event).set("data", data);
            for (name, _) in &mut members.0 {
                *name = all_escaped(name.trim_matches('"'), false);
            }
            members.line()
        }
        8 => {
            event.id = format!("é{}-😀\u{7f}\u{2028}", event.id);
            Members::of(&event).line()
        }
        9 => {
            event.id = format!("{}\"\\/\u{8}\u{c}\n\r\t\0\u{1f}é😀", event.id);
            Members::of(&event).set("id", all_escaped(&event.id, true)).line()
        }
        10 => {
            event.id = format!("/{}\n", event.id);
            Members::of(&event).set("id", json(&event.id).replace('/', "\\/")).line()
        }
        11 => {
            event.value = random.of(&[i64::MAX, i64::MIN, i64::MAX - 1, 0, 1, -1]);
            Members::of(&event).value(&event.value.to_string()).line()
        }
        12 => {
            event.value = 0;
            Members::of(&event).value("-0").line()
        }
        13 => {
            let written = [
                ("2026-03-01T01:30:12.5+01:30", 1_772_323_212),
                ("2026-02-28T23:00:12-01:00", 1_772_323_212),
                ("2026-03-01T00:00:12.123456789Z", 1_772_323_212),
                ("2026-03-01T23:59:59Z", 1_772_409_599),
                ("1970-01-01T00:00:00+00:01", -60),
                ("2000-02-29T12:00:00Z", 951_825_600),
                ("9999-12-31T23:59:59-23:59", 253_402_387_139),
            ];
            let (time, seconds) = random.of(&written);
            (event.time, event.seconds) = (time.into(), seconds);
            Members::of(&event).line()
        }
        14 => Members::of(&event).more(random, "\"deep\"", &nested(31)).line(),
        15 => Members::of(&event).more(random, "\"deep\"", r#"{"twice":1,"twice":2,"":[{"":0,"":0}]}"#).line(),
        16 => {
            event.kind = (random.of(&[
                "com.example.reading.\"odd\",too",
                "Ω",
                "com.example.heartbeats",
                "x heartbeat",
                "\r",
                "z",
            ]))
            .into();
            Members::of(&event).line()
        }
        17 => {
            let many: Vec<String> =
                (0..3 + random.below(30)).map(|number| format!(r#""n{number}":{number}"#)).collect();
            Members::of(&event).set("data", format!(r#"{{{},"value":{}}}"#, many.join(","), event.value)).line()
        }
        18 if random.chance(10) => padded(&event, LONGEST),
        _ => Members::of(&event)
            .set(
                "data",
                format!(
                    r#"{{"a":123456789012345678901234567890,"b":-0.0,"c":0E-7,"value":{},"d":"\u0000"}}"#,
                    event.value
                ),
            )
            .line(),
    };
    (event, bytes)
}

/// An event that the filter leaves out, whatever else is in it.
pub(super) fn heartbeat(random: &mut Random, event: &Event) -> Vec<u8> {
    let members = Members::of(event).set("type", "\"com.example.heartbeat\"");
    match random.below(40) {
        0 => members.without("data").line(),
        1 => members.set("source", "\"/nobody\"").line(),
        2 => members.value("\"none\"").line(),
        3 => members.set("type", "\"heartbeat\"").line(),
        4 => members.set("type", all_escaped(".heartbeat", false)).line(),
        _ => members.set("data", r#"{"uptime":86400,"status":"ok"}"#).line(),
    }
}

/// A line that is bad, and what for.
pub(super) fn dead(random: &mut Random, event: &Event) -> (&'static str, Vec<u8>) {
    let mut reason = random.of(&REASONS);
    if reason == "too_long" && !random.chance(5) {
        reason = "not_json";
    }
    let members = Members::of(event);
    // Missing, or one of these in its place.
    let mut instead = |name: &str, values: &[&str]| {
        let at = usize::try_from(random.below(values.len() as u64 + 1)).unwrap_or(0);
        match values.get(at) {
            Some(value) => Members::of(event).set(name, *value).line(),
            None => Members::of(event).without(name).line(),
        }
    };
    let bytes = match reason {
        "too_long" => {
            let more = random.of(&[1, 2, 1000, 65_536, 300_000]);
            padded(event, LONGEST + more)
        }
        "empty" => random.of(&[&b""[..], b" ", b"\t \t", b"\r"]).to_vec(),
        "not_utf8" => {
            let bad =
                random.of(&[&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]);
            let mut bytes = event.plain().into_bytes();
            // Within the id, or anywhere.
            let at = if random.chance(2) { 30 } else { usize::try_from(random.below(bytes.len() as u64)).unwrap_or(0) };
            bytes.splice(at..at, bad.iter().copied());
            bytes
        }
        "too_deep" => match random.below(4) {
            0 => members.more(random, "\"deep\"", &nested(32)).line(),
            1 => members.more(random, "\"deep\"", &nested(33)).line(),
            2 => b"[".repeat(33 + usize::try_from(random.below(20_000)).unwrap_or(0)),
            _ => nested(if random.chance(2) { 10_000 } else { 5_001 }).into_bytes(),
        },
        "not_json" => not_json(random, event),
        "lone_surrogate" => {
            let text = random.of(&[
                r"\ud800",
                r"\uDFFF",
                r"x\ude00\ud83d",
                r"\ud83d\ud83d\ude00",
                r"\uD83D \uDE00",
                r"\ud83d\n",
            ]);
            match random.below(4) {
                0 => members.set("id", format!("\"{text}\"")).line(),
                1 => members.more(random, &format!("\"{text}\""), "1").line(),
                2 => members.set("data", format!(r#"{{"value":1,"deep":[{{"a":"{text}"}}]}}"#)).line(),
                _ => format!("\"{text}\"").into_bytes(),
            }
        }
        "not_object" => random
            .of(&["[]", "1", "-0.5e7", "null", "true", "\"{}\"", "[{\"specversion\":\"1.0\"}]", " 0 "])
            .as_bytes()
            .to_vec(),
        "duplicate_key" => match random.below(6) {
            0 => members.more(random, "\"id\"", "\"again\"").line(),
            1 => members.more(random, r#""\u0069d""#, "null").line(),
            2 => members.more(random, "\"x\"", "1").more(random, r#""\u0078""#, "1").line(),
            3 => members.more(random, "\"data\"", "{\"value\":1}").line(),
            4 => members.set("data", r#"{"value":1,"value":1}"#).line(),
            _ => members.set("data", r#"{"a":1,"value":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"a":1}"#).line(),
        },
        "specversion" => instead("specversion", &["\"0.3\"", "1.0", "null", "\"\"", "\"1.0 \"", "[\"1.0\"]"]),
        "id" => instead("id", &["\"\"", "7", "null", "{}"]),
        "source" => instead("source", &["\"\"", "7", "false"]),
        "type" => instead("type", &["\"\"", "[]", "1.5"]),
        "time" => instead(
            "time",
            &[
                "\"yesterday\"",
                "1772323200",
                "\"2026-03-01\"",
                "\"2026-03-01T00:00:00\"",
                "\"2026-03-01 00:00:00Z\"",
                "\"2026-03-01t00:00:00z\"",
                "\"2026-13-01T00:00:00Z\"",
                "\"2026-02-29T00:00:00Z\"",
                "\"2026-04-31T00:00:00Z\"",
                "\"2026-03-01T24:00:00Z\"",
                "\"2026-03-01T00:00:60Z\"",
                "\"2026-03-01T00:00:00.Z\"",
                "\"2026-03-01T00:00:00.1234567890Z\"",
                "\"2026-03-01T00:00:00+24:00\"",
                "\"2026-03-01T00:00:00+0100\"",
                "\"2026-03-01T00:00:00Z \"",
                "\"1969-12-31T23:59:59Z\"",
                "\"\u{662}026-03-01T00:00:00Z\"",
            ],
        ),
        "data" => instead("data", &["null", "[]", "5", "\"{}\""]),
        "value_missing" => members
            .set("data", random.of(&["{}", "{\"Value\":1}", "{\"unit\":\"value\"}", "{\"x\":{\"value\":1}}"]))
            .line(),
        "value_not_integer" => members
            .value(random.of(&[
                "\"12\"",
                "1.5",
                "1.0",
                "1e3",
                "-0.0",
                "0E0",
                "true",
                "null",
                "[1]",
                "{\"value\":1}",
                "1e999",
            ]))
            .line(),
        "value_out_of_range" => {
            let digits = "9".repeat(5_000);
            let text = random.of(&["9223372036854775808", "-9223372036854775809", "18446744073709551616", &digits]);
            members.value(text).line()
        }
        _ => {
            let text = random.of(&["/plant-99/dev-0001", "x", "/PLANT-01/dev-0001", "/plant-01/dev-0001 ", "\\u0000"]);
            members.set("source", if random.chance(2) { json(&source(9_999)) } else { format!("\"{text}\"") }).line()
        }
    };
    (reason, bytes)
}

fn not_json(random: &mut Random, event: &Event) -> Vec<u8> {
    let plain = event.plain();
    let members = Members::of(event);
    match random.below(12) {
        0..4 => {
            let at = usize::try_from(1 + random.below(plain.len() as u64 - 1)).unwrap_or(1);
            plain.as_bytes().get(..at).unwrap_or_default().to_vec()
        }
        4 => format!("\u{feff}{plain}").into_bytes(),
        5 => {
            let text = random.of(&[
                "NaN",
                "Infinity",
                "-Infinity",
                "012",
                "+1",
                ".5",
                "1.",
                "1e",
                "0x10",
                "-",
                "1_000",
                "\u{661}",
                "1\u{661}",
                "nul",
                "True",
                "",
            ]);
            members.value(text).line()
        }
        6 => {
            let text = random.of(&[r"\x", r"\u12G4", r"\u+123", r"\u12", "\t", "\u{1}", "\0", r"\'", r"\ud83d\u12"]);
            members.set("id", format!("\"{text}\"")).line()
        }
        7 => {
            let after = random.of(&["}", ",", "{}", " x", "\u{a0}", "\u{c}", "\0", "// no", "\u{2028}", ";"]);
            format!("{plain}{after}").into_bytes()
        }
        8 => plain.replace("}}", random.of(&["},}", ",}}", "}}}", "}]", "} }x"])).into_bytes(),
        9 => plain.replace('"', "'").into_bytes(),
        10 => members.joined(random.of(&["=", "::", " ", ""]), ","),
        _ => {
            let text = random.of(&[
                "hello", "{", "}", "\"", "{]", "[1,]", "[,1]", "{\"a\"}", "{a:1}", "{\"a\":}", "{1:2}", "\u{b}",
                "nullnull", "<event/>",
            ]);
            text.as_bytes().to_vec()
        }
    }
}
