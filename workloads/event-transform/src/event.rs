//! Judges a line: the contract of README.md, check by check in its order.

use crate::bytes::same;
use crate::json::{Cursor, Marks, Names, NotJson, Part, Text, most_open};
use crate::reference::{Device, Reference};
use crate::time::Times;

/// The most bytes of a line, without its newline.
pub(crate) const LONGEST: usize = 65_536;

/// The most objects and arrays within one another.
const LEVELS: u32 = 32;

macro_rules! reasons {
    ($($name:ident $word:literal)*) => {
        /// Why a line is dead, in the order in which they are looked for: the first that applies.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason { $($name),* }

        impl Reason {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }
        }
    };
}

reasons! {
    TooLong "too_long"
    Empty "empty"
    NotUtf8 "not_utf8"
    TooDeep "too_deep"
    NotJson "not_json"
    LoneSurrogate "lone_surrogate"
    NotObject "not_object"
    DuplicateKey "duplicate_key"
    Specversion "specversion"
    Id "id"
    Source "source"
    Type "type"
    Time "time"
    Data "data"
    ValueMissing "value_missing"
    ValueNotInteger "value_not_integer"
    ValueOutOfRange "value_out_of_range"
    UnknownSource "unknown_source"
}

/// An event that goes on.
#[derive(Debug)]
pub(crate) struct Accepted<'a> {
    pub(crate) id: Text<'a>,
    pub(crate) source: Text<'a>,
    pub(crate) kind: Text<'a>,
    pub(crate) time: Text<'a>,
    pub(crate) seconds: i64,
    /// The value, and as it is written.
    pub(crate) value: i64,
    pub(crate) digits: &'a [u8],
    pub(crate) device: &'a Device,
    pub(crate) line: &'a [u8],
}

#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    Accepted(Accepted<'a>),
    Filtered,
    Dead(Reason),
}

/// What is looked at of a `data`.
#[derive(Debug, Clone, Copy, Default)]
enum Data {
    /// It isn't there, or no object.
    #[default]
    None,
    Object(Part),
}

/// The members of an event that are looked at.
#[derive(Debug, Default)]
struct Members {
    specversion: Part,
    id: Part,
    source: Part,
    kind: Part,
    time: Part,
    /// Whether there was one, of whatever kind.
    has_data: bool,
    data: Data,
    twice: bool,
}

const fn four(name: [u8; 4]) -> u32 {
    u32::from_le_bytes(name)
}

const TYPE: u32 = four(*b"type");
const TIME: u32 = four(*b"time");
const DATA: u32 = four(*b"data");

impl Members {
    /// The place of the member `name`; an error with whether it is `data` where it has none.
    #[inline(always)]
    fn place(&mut self, name: &[u8]) -> Result<&mut Part, bool> {
        match name.len() {
            2 if same(name, b"id") => Ok(&mut self.id),
            4 => match name.first_chunk().map_or(0, |name| four(*name)) {
                TYPE => Ok(&mut self.kind),
                TIME => Ok(&mut self.time),
                other => Err(other == DATA),
            },
            6 if same(name, b"source") => Ok(&mut self.source),
            11 if same(name, b"specversion") => Ok(&mut self.specversion),
            _ => Err(false),
        }
    }

    #[inline(always)]
    fn read(&mut self, cursor: &mut Cursor<'_>, line: &[u8]) -> Result<(), NotJson> {
        let mut others = Names::default();
        cursor.object(0, |cursor, part, levels| {
            let name = part.text(line).unwrap_or_default();
            let meant = name.decoded();
            match self.place(&meant) {
                Ok(place) => {
                    let before = *place;
                    *place = cursor.value(levels)?;
                    self.twice |= !before.is_none();
                }
                Err(true) => {
                    self.twice |= self.has_data;
                    self.has_data = true;
                    self.data = self.read_data(cursor, line, levels)?;
                }
                Err(false) => {
                    others.add(part, line);
                    cursor.value(levels)?;
                }
            }
            Ok(())
        })?;
        self.twice |= others.any_twice(line);
        Ok(())
    }

    #[inline(always)]
    fn read_data(&mut self, cursor: &mut Cursor<'_>, line: &[u8], levels: u32) -> Result<Data, NotJson> {
        if cursor.peek() != b'{' {
            cursor.value(levels)?;
            return Ok(Data::None);
        }
        let mut found = Part::default();
        let mut others = Names::default();
        cursor.object(levels, |cursor, part, levels| {
            if part.text(line).unwrap_or_default().is(b"value") {
                self.twice |= !found.is_none();
                found = cursor.value(levels)?;
            } else {
                others.add(part, line);
                cursor.value(levels)?;
            }
            Ok(())
        })?;
        self.twice |= others.any_twice(line);
        Ok(Data::Object(found))
    }
}

/// A string with something in it.
#[inline(always)]
fn some_text(part: Part, line: &[u8]) -> Option<Text<'_>> {
    part.text(line).filter(|text| !text.is_empty())
}

/// Whether events of this type are left out: the last of its parts between dots is `heartbeat`.
#[inline(always)]
fn is_filtered(kind: &[u8]) -> bool {
    kind.strip_suffix(b"heartbeat").is_some_and(|before| before.last().is_none_or(|byte| *byte == b'.'))
}

/// The number that JSON's integer is, if 64 bits hold it.
#[inline(always)]
fn integer(text: &[u8]) -> Option<i64> {
    if text.len() > 18 {
        // They are written as Rust's are.
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}

/// Judges lines.
#[derive(Debug)]
pub(crate) struct Judge {
    reference: Reference,
    times: Times,
    marks: Marks,
}

impl Judge {
    pub(crate) fn new(reference: Reference) -> Self {
        Self { reference, times: Times::default(), marks: Marks::default() }
    }

    pub(crate) fn sites(&self) -> &[String] {
        &self.reference.sites
    }

    #[inline(always)]
    pub(crate) fn judge<'a>(&'a mut self, line: &'a [u8]) -> Verdict<'a> {
        match self.checked(line) {
            Ok(Some(accepted)) => Verdict::Accepted(accepted),
            Ok(None) => Verdict::Filtered,
            Err(reason) => Verdict::Dead(reason),
        }
    }

    #[inline(never)]
    fn checked<'a>(&'a mut self, line: &'a [u8]) -> Result<Option<Accepted<'a>>, Reason> {
        if line.len() > LONGEST {
            return Err(Reason::TooLong);
        }
        let mut cursor = Cursor::new(line, &mut self.marks, LEVELS);
        cursor.space();
        if cursor.peek() != b'{' {
            return Err(not_an_object(cursor, line));
        }
        let mut members = Members::default();
        let read = members.read(&mut cursor, line).and_then(|()| cursor.end());
        if cursor.beyond_ascii && std::str::from_utf8(line).is_err() {
            return Err(Reason::NotUtf8);
        }
        if read.is_err() {
            return Err(not_json(line));
        }
        if cursor.lone_surrogate {
            return Err(Reason::LoneSurrogate);
        }
        if members.twice {
            return Err(Reason::DuplicateKey);
        }
        if !members.specversion.text(line).is_some_and(|version| version.is(b"1.0")) {
            return Err(Reason::Specversion);
        }
        let id = some_text(members.id, line).ok_or(Reason::Id)?;
        let source = some_text(members.source, line).ok_or(Reason::Source)?;
        let kind = some_text(members.kind, line).ok_or(Reason::Type)?;
        let time = some_text(members.time, line).ok_or(Reason::Time)?;
        let seconds = self.times.seconds(&time.decoded()).ok_or(Reason::Time)?;
        if is_filtered(&kind.decoded()) {
            return Ok(None);
        }
        let digits = match members.data {
            Data::None => return Err(Reason::Data),
            Data::Object(value) if value.is_none() => return Err(Reason::ValueMissing),
            Data::Object(value) => value.integer(line).ok_or(Reason::ValueNotInteger)?,
        };
        let value = integer(digits).ok_or(Reason::ValueOutOfRange)?;
        let device = self.reference.device(&source.decoded()).ok_or(Reason::UnknownSource)?;
        let digits = if value == 0 { b"0" } else { digits };
        Ok(Some(Accepted { id, source, kind, time, seconds, value, digits, device, line }))
    }
}

/// The reason for a line that doesn't begin as an object does.
#[cold]
fn not_an_object(mut cursor: Cursor<'_>, line: &[u8]) -> Reason {
    if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
        return Reason::Empty;
    }
    if std::str::from_utf8(line).is_err() {
        return Reason::NotUtf8;
    }
    match cursor.value(0).and_then(|_| cursor.end()) {
        Err(NotJson) => not_json(line),
        Ok(()) if cursor.lone_surrogate => Reason::LoneSurrogate,
        Ok(()) => Reason::NotObject,
    }
}

/// The reason for a line that is UTF-8 and couldn't be read.
#[cold]
fn not_json(line: &[u8]) -> Reason {
    // Bytes beyond ASCII may stand after what the reading failed at.
    if std::str::from_utf8(line).is_err() {
        Reason::NotUtf8
    } else if most_open(line) > LEVELS as usize {
        Reason::TooDeep
    } else {
        Reason::NotJson
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(line: &[u8]) -> String {
        let mut judge = Judge::new(Reference::parse("source,site,zone\n/a,north,z1\n/\u{e9},south,z2\n").unwrap());
        match judge.judge(line) {
            Verdict::Dead(reason) => reason.word().into(),
            Verdict::Filtered => "filtered".into(),
            Verdict::Accepted(event) => {
                let digits = String::from_utf8_lossy(event.digits);
                assert_eq!(digits, event.value.to_string());
                format!("{digits}@{}", event.seconds)
            }
        }
    }

    const GOOD: &str =
        r#"{"specversion":"1.0","id":"7","source":"/a","type":"t","time":"1970-01-01T00:01:00Z","data":{"value":5}}"#;

    fn with(old: &str, new: &str) -> String {
        assert!(GOOD.contains(old), "{old}");
        judged(GOOD.replace(old, new).as_bytes())
    }

    #[test]
    fn good_events_are_accepted_however_they_are_written() {
        assert_eq!(judged(GOOD.as_bytes()), "5@60");
        for (old, new, value) in [
            ("}}", "}}\r", "5@60"),
            ("{\"spec", " \t{ \"spec", "5@60"),
            ("\"id\"", r#""\u0069d""#, "5@60"),
            ("\"/a\"", r#""\/\u0061""#, "5@60"),
            ("\"/a\"", "\"/é\"", "5@60"),
            ("\"/a\"", r#""/\u00e9""#, "5@60"),
            ("\"1.0\"", r#""\u0031.0""#, "5@60"),
            (":5", ":-0", "0@60"),
            (":5", ":9223372036854775807", "9223372036854775807@60"),
            (":5", ":-9223372036854775808", "-9223372036854775808@60"),
            ("\"data\"", r#""x":{"a":[1,{"a":1,"a":2}]},"y":null,"data""#, "5@60"),
            (":5", r#":5,"unit":"C","more":[1]"#, "5@60"),
            ("\"t\"", "\"a.heartbeats\"", "5@60"),
            ("\"t\"", "\"aheartbeat\"", "5@60"),
            ("\"t\"", "\"heartbeat.t\"", "5@60"),
        ] {
            assert_eq!(with(old, new), value, "{new}");
        }
    }

    #[test]
    fn each_reason_is_given() {
        for (old, new, reason) in [
            ("\"7\"", "\"\\uD800\"", "lone_surrogate"),
            ("{\"spec", "x{\"spec", "not_json"),
            ("}}", "}", "not_json"),
            ("}}", "}}}", "not_json"),
            ("}}", "}}\u{a0}", "not_json"),
            ("{\"spec", "\u{feff}{\"spec", "not_json"),
            (":5", ":NaN", "not_json"),
            (":5", ":05", "not_json"),
            ("\"7\"", "\"\u{1}\"", "not_json"),
            ("\"data\"", r#""id":"8","data""#, "duplicate_key"),
            ("\"data\"", r#""\u0069d":"8","data""#, "duplicate_key"),
            ("\"data\"", r#""x":1,"x":1,"data""#, "duplicate_key"),
            ("\"data\"", r#""data":1,"data""#, "duplicate_key"),
            (":5", r#":5,"value":5"#, "duplicate_key"),
            (":5", r#":5,"x":5,"x":5"#, "duplicate_key"),
            ("\"1.0\"", "1.0", "specversion"),
            ("\"1.0\"", "\"1.1\"", "specversion"),
            ("\"specversion\"", "\"version\"", "specversion"),
            ("\"7\"", "7", "id"),
            ("\"7\"", "\"\"", "id"),
            ("\"/a\"", "null", "source"),
            ("\"t\"", "[]", "type"),
            ("\"t\"", "\"\"", "type"),
            ("1970-", "1969-", "time"),
            ("\"time\"", "\"when\"", "time"),
            ("{\"value\":5}", "5", "data"),
            ("{\"value\":5}", "[]", "data"),
            ("\"data\"", "\"dat\"", "data"),
            ("\"value\"", "\"valu\"", "value_missing"),
            (":5", ":5.0", "value_not_integer"),
            (":5", ":5e0", "value_not_integer"),
            (":5", ":\"5\"", "value_not_integer"),
            (":5", ":null", "value_not_integer"),
            (":5", ":{}", "value_not_integer"),
            (":5", ":9223372036854775808", "value_out_of_range"),
            (":5", ":-9223372036854775809", "value_out_of_range"),
            ("\"/a\"", "\"/b\"", "unknown_source"),
            ("\"t\"", "\"a.heartbeat\"", "filtered"),
            ("\"t\"", "\"heartbeat\"", "filtered"),
        ] {
            assert_eq!(with(old, new), reason, "{new}");
        }
        for (line, reason) in [
            (&b""[..], "empty"),
            (b" \t\r", "empty"),
            (b"\x0b", "not_json"),
            (b"\xff", "not_utf8"),
            (b"{\"a\":\"\xed\xa0\x80\"}", "not_utf8"),
            (b"{\"a\":\"\xc0\x80\"}", "not_utf8"),
            (b"{x \xff", "not_utf8"),
            (b"1", "not_object"),
            (b"[]", "not_object"),
            (b"\"\\udc00\"", "lone_surrogate"),
            (b"nul", "not_json"),
        ] {
            assert_eq!(judged(line), reason, "{line:?}");
        }
        assert_eq!(judged("[".repeat(33).as_bytes()), "too_deep");
        assert_eq!(judged("[".repeat(32).as_bytes()), "not_json");
        assert_eq!(
            judged(
                GOOD.replace("\"data\"", &format!("\"x\":{}1{},\"data\"", "[".repeat(31), "]".repeat(31))).as_bytes()
            ),
            "5@60"
        );
        assert_eq!(
            judged(
                GOOD.replace("\"data\"", &format!("\"x\":{}1{},\"data\"", "[".repeat(32), "]".repeat(32))).as_bytes()
            ),
            "too_deep"
        );
        let padded = |length: usize| [GOOD.as_bytes(), &b" ".repeat(length - GOOD.len())].concat();
        assert_eq!(judged(&padded(LONGEST)), "5@60");
        assert_eq!(judged(&padded(LONGEST + 1)), "too_long");
    }

    #[test]
    fn the_first_reason_in_the_order_is_the_one_given() {
        for (line, reason) in [
            (&b"{\"a\":\"\xff\",[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["[..], "not_utf8"),
            (b"x[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "too_deep"),
            (b"{\"a\":\"\\ud800\",}", "not_json"),
            (b"[\"\\ud800\"]", "lone_surrogate"),
            (b"{\"a\":1,\"a\":2}", "duplicate_key"),
            (b"{}", "specversion"),
            (b"{\"specversion\":\"1.0\"}", "id"),
        ] {
            assert_eq!(judged(line), reason, "{line:?}");
        }
        // What a heartbeat holds isn't looked at, nor whose it is.
        assert_eq!(
            judged(GOOD.replace("\"t\"", "\"heartbeat\"").replace("{\"value\":5}", "null").as_bytes()),
            "filtered"
        );
        assert_eq!(judged(GOOD.replace("\"t\"", "\"heartbeat\"").replace("\"/a\"", "\"/b\"").as_bytes()), "filtered");
        assert_eq!(judged(GOOD.replace("\"t\"", "\"heartbeat\"").replace("1970-", "x").as_bytes()), "time");
        assert_eq!(judged(GOOD.replace("\"/a\"", "\"/b\"").replace(":5", ":5.5").as_bytes()), "value_not_integer");
    }
}
