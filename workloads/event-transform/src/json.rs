//! Reads JSON (RFC 8259) in place: nothing is copied, and what isn't asked for is only checked.
//!
//! Why not a library's: the contract says of every byte of every line whether it is accepted, also in members that nobody reads
//! (names twice, lone surrogates, depth), and a second implementation has to say the same. The tests hold this one against
//! serde_json.

use std::borrow::Cow;
use std::ops::Range;

use crate::bytes::same;

/// The bytes are no JSON text, or it nests deeper than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson;

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Text<'a> {
    raw: &'a [u8],
    /// Where in its line that is.
    start: usize,
    escaped: bool,
}

impl<'a> Text<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Where it is in its line, if it stands there as outputs have it.
    #[inline(always)]
    pub(crate) fn verbatim(self) -> Option<Range<usize>> {
        (!self.escaped).then_some(self.start..self.start + self.raw.len())
    }

    /// What it means.
    pub(crate) fn decoded(self) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(unescaped(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// Whether it means `name`.
    #[inline(always)]
    pub(crate) fn is(self, name: &[u8]) -> bool {
        if self.escaped { *self.decoded() == *name } else { same(self.raw, name) }
    }

    /// Appends it in the one form that outputs have, without quotes.
    pub(crate) fn write_to(self, out: &mut Vec<u8>) {
        if self.escaped {
            write_escaped(&unescaped(self.raw), out);
        } else {
            // No quote, no backslash and no control character is in it, so it is in that form already.
            out.extend_from_slice(self.raw);
        }
    }
}

impl PartialEq for Text<'_> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        if self.escaped || other.escaped { self.decoded() == other.decoded() } else { same(self.raw, other.raw) }
    }
}

/// Appends `text` with what JSON has to escape escaped, and nothing else.
pub(crate) fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0x08 => out.extend(b"\\b"),
            0x0c => out.extend(b"\\f"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => {
                out.extend(b"\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
}

/// Four hexadecimal digits.
fn unit(digits: &[u8]) -> Option<u32> {
    digits.get(..4)?.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

const HIGH: Range<u32> = 0xd800..0xdc00;
const LOW: Range<u32> = 0xdc00..0xe000;

/// The character that `\u` and what follows it mean, and how many bytes after the `u` that is; `None` in its place for a
/// surrogate without its other half.
fn escaped_char(rest: &[u8]) -> Option<(Option<char>, usize)> {
    let first = unit(rest)?;
    if HIGH.contains(&first)
        && rest.get(4..6) == Some(b"\\u")
        && let Some(second) = rest.get(6..).and_then(unit)
        && LOW.contains(&second)
    {
        let code = 0x1_0000 + ((first - HIGH.start) << 10) + (second - LOW.start);
        return Some((char::from_u32(code), 10));
    }
    Some((char::from_u32(first), 4))
}

/// What a string means whose escapes were found to be good.
fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else { break };
        rest = after;
        match escape {
            b'b' => text.push(0x08),
            b'f' => text.push(0x0c),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'u' => {
                let (meant, length) = escaped_char(rest).unwrap_or((None, 0));
                let mut buffer = [0; 4];
                text.extend(meant.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer).as_bytes());
                rest = rest.get(length..).unwrap_or_default();
            }
            itself => text.push(itself),
        }
    }
    text
}

/// What a value is, as far as anyone asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// There is none.
    #[default]
    None,
    Text,
    /// A string with escapes.
    Escaped,
    /// A number without fraction and exponent.
    Integer,
    Other,
}

/// A value, or a name: what it is, and where in its line. It holds no slice, so that it is moved about in registers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Part {
    kind: Kind,
    start: usize,
    end: usize,
}

impl Part {
    pub(crate) fn is_none(self) -> bool {
        self.kind == Kind::None
    }

    /// The string that it is.
    #[inline(always)]
    pub(crate) fn text(self, line: &[u8]) -> Option<Text<'_>> {
        let Self { kind, start, end } = self;
        let escaped = kind == Kind::Escaped;
        let raw = line.get(start..end).filter(|_| escaped || kind == Kind::Text)?;
        Some(Text { raw, start, escaped })
    }

    /// Sign and digits of the integer that it is.
    #[inline(always)]
    pub(crate) fn integer(self, line: &[u8]) -> Option<&[u8]> {
        line.get(self.start..self.end).filter(|_| self.kind == Kind::Integer)
    }
}

const OTHER: Part = Part { kind: Kind::Other, start: 0, end: 0 };

/// The marks of 64 bytes, the first in the lowest bit; adds to `beyond_ascii` whether one of them isn't ASCII.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn marks_of(chunk: &[u8; AT_ONCE], beyond_ascii: &mut bool) -> u64 {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, u64x2, v128_or};
    let (mut word, mut all) = (0, u8x16_splat(0));
    for (sixteen, at) in chunk.as_chunks::<16>().0.iter().zip((0..AT_ONCE).step_by(16)) {
        let [low, high] = [0, 8].map(|half| u64::from_le_bytes(std::array::from_fn(|at| sixteen[half + at])));
        // One load, when compiled.
        let bytes = u64x2(low, high);
        all = v128_or(all, bytes);
        let ends = v128_or(u8x16_eq(bytes, u8x16_splat(b'"')), u8x16_eq(bytes, u8x16_splat(b'\\')));
        let found = v128_or(ends, u8x16_lt(bytes, u8x16_splat(0x20)));
        word |= u64::from(u8x16_bitmask(found)) << at;
    }
    *beyond_ascii |= u8x16_bitmask(all) != 0;
    word
}

/// The same, so written that compilers make vector instructions of it: for machines they do, for Wasm they don't.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn marks_of(chunk: &[u8; AT_ONCE], beyond_ascii: &mut bool) -> u64 {
    let flag = |byte: u8| u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < 0x20);
    let flags: [u8; AT_ONCE] = std::array::from_fn(|at| flag(chunk[at]));
    *beyond_ascii |= !chunk.is_ascii();
    let mut word = 0;
    for (eight, at) in flags.as_chunks::<8>().0.iter().zip((0..AT_ONCE).step_by(8)) {
        // The product's highest byte has the lowest bits of the eight in their order.
        word |= (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << at;
    }
    word
}

/// Where in a line the bytes are that end a plain part of a string or may not be in one: quotes, backslashes, control characters.
/// A bit a byte, found for 64 of them at a time: a reader of strings then needn't look at each byte.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    words: Vec<u64>,
}

const AT_ONCE: usize = 64;

impl Marks {
    /// Marks `line`; whether it has bytes that aren't ASCII.
    #[inline(never)]
    fn mark(&mut self, line: &[u8]) -> bool {
        self.words.clear();
        let (chunks, rest) = line.as_chunks();
        let mut beyond_ascii = false;
        for chunk in chunks {
            self.words.push(marks_of(chunk, &mut beyond_ascii));
        }
        if !rest.is_empty() {
            // The last 64 of the line, of which the first were had already; a line that has fewer is filled up.
            let word = match line.last_chunk() {
                Some(chunk) => marks_of(chunk, &mut beyond_ascii) >> (AT_ONCE - rest.len()),
                None => marks_of(&std::array::from_fn(|at| line.get(at).copied().unwrap_or(b' ')), &mut beyond_ascii),
            };
            self.words.push(word);
        }
        beyond_ascii
    }

    /// The first mark from `at` on; where there is none, the end or a place beyond it.
    #[inline(always)]
    fn next(&self, at: usize) -> usize {
        let first = self.words.get(at / AT_ONCE).map_or(0, |word| word >> (at % AT_ONCE));
        if first != 0 { at + first.trailing_zeros() as usize } else { self.next_word(at / AT_ONCE + 1) }
    }

    #[inline(never)]
    fn next_word(&self, mut word: usize) -> usize {
        while self.words.get(word) == Some(&0) {
            word += 1;
        }
        word * AT_ONCE + self.words.get(word).map_or(0, |word| word.trailing_zeros() as usize)
    }
}

/// Where in one line the reading is.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    marks: &'a Marks,
    at: usize,
    most_levels: u32,
    /// Bytes that are not ASCII are in it; whether they are UTF-8 is for the caller to find out.
    pub(crate) beyond_ascii: bool,
    /// A surrogate without its other half was seen.
    pub(crate) lone_surrogate: bool,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], marks: &'a mut Marks, most_levels: u32) -> Self {
        let beyond_ascii = marks.mark(bytes);
        Self { bytes, marks, at: 0, most_levels, beyond_ascii, lone_surrogate: false }
    }

    /// The next byte; 0, which JSON has nowhere, at the end.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn space(&mut self) {
        if self.peek() <= b' ' {
            self.some_space();
        }
    }

    #[cold]
    fn some_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.peek() != byte {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but space follows.
    pub(crate) fn end(&mut self) -> Result<(), NotJson> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(NotJson) }
    }

    /// A string; the cursor is at its quote.
    #[inline(always)]
    fn text(&mut self) -> Result<Part, NotJson> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = self.marks.next(start);
        let escaped = self.peek() != b'"';
        if escaped {
            self.escaped_rest()?;
        }
        let end = self.at;
        self.at += 1;
        Ok(Part { kind: if escaped { Kind::Escaped } else { Kind::Text }, start, end })
    }

    /// To the quote of a string that has escapes, if it is one.
    #[cold]
    fn escaped_rest(&mut self) -> Result<(), NotJson> {
        loop {
            match self.peek() {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return Err(NotJson),
            }
            self.at = self.marks.next(self.at);
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                let rest = self.bytes.get(self.at..).unwrap_or_default();
                let (meant, length) = escaped_char(rest).ok_or(NotJson)?;
                self.lone_surrogate |= meant.is_none();
                self.at += length;
            }
            _ => return Err(NotJson),
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), NotJson> {
        if !self.peek().is_ascii_digit() {
            return Err(NotJson);
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    #[inline(always)]
    fn number(&mut self) -> Result<Part, NotJson> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let whole = self.at;
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Part { kind: if self.at == whole { Kind::Integer } else { Kind::Other }, start, end: whole })
    }

    fn word(&mut self, word: &[u8]) -> Result<Part, NotJson> {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += word.len();
        if found { Ok(OTHER) } else { Err(NotJson) }
    }

    /// Any value, `levels` of objects and arrays within others.
    #[inline(always)]
    pub(crate) fn value(&mut self, levels: u32) -> Result<Part, NotJson> {
        match self.peek() {
            b'"' => self.text(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.other(levels),
        }
    }

    fn other(&mut self, levels: u32) -> Result<Part, NotJson> {
        match self.peek() {
            b'{' => self.object(levels, |cursor, _, levels| cursor.value(levels).map(|_| ())).map(|()| OTHER),
            b'[' => self.array(levels),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => Err(NotJson),
        }
    }

    fn array(&mut self, levels: u32) -> Result<Part, NotJson> {
        let levels = self.enter(levels)?;
        if self.peek() != b']' {
            loop {
                self.space();
                self.value(levels)?;
                self.space();
                if self.peek() != b',' {
                    break;
                }
                self.at += 1;
            }
        }
        self.expect(b']')?;
        Ok(OTHER)
    }

    /// Past the bracket, and the levels that there are now.
    #[inline(always)]
    fn enter(&mut self, levels: u32) -> Result<u32, NotJson> {
        if levels >= self.most_levels {
            return Err(NotJson);
        }
        self.at += 1;
        self.space();
        Ok(levels + 1)
    }

    /// An object; the cursor is at its brace. `member` is called with each name, and reads the value.
    #[inline(always)]
    pub(crate) fn object(
        &mut self,
        levels: u32,
        mut member: impl FnMut(&mut Self, Part, u32) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        let levels = self.enter(levels)?;
        if self.peek() != b'}' {
            loop {
                self.space();
                let name = self.text()?;
                self.space();
                self.expect(b':')?;
                self.space();
                member(self, name, levels)?;
                self.space();
                if self.peek() != b',' {
                    break;
                }
                self.at += 1;
            }
        }
        self.expect(b'}')
    }
}

/// How many `{` and `[` are open at once at most, outside of what looks like a string: asked of any bytes, JSON or not.
pub(crate) fn most_open(bytes: &[u8]) -> usize {
    let (mut open, mut most, mut inside) = (0_usize, 0, false);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' if inside => _ = rest.next(),
            b'"' => inside = !inside,
            b'{' | b'[' if !inside => {
                open += 1;
                most = most.max(open);
            }
            b'}' | b']' if !inside => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// The names of an object that nobody asks for, to see whether one is there twice.
#[derive(Debug, Default)]
pub(crate) struct Names {
    first: [Part; 6],
    count: usize,
    more: Vec<Part>,
    twice: bool,
}

impl Names {
    #[inline(always)]
    pub(crate) fn add(&mut self, name: Part, line: &[u8]) {
        if let Some(free) = self.first.get_mut(self.count) {
            *free = name;
            let found = name.text(line);
            self.twice |= self.first.iter().take(self.count).any(|other| other.text(line) == found);
            self.count += 1;
        } else {
            self.more.push(name);
        }
    }

    #[inline(always)]
    pub(crate) fn any_twice(&self, line: &[u8]) -> bool {
        self.twice || (!self.more.is_empty() && self.any_twice_of_many(line))
    }

    /// By sorting, since a line may hold thousands.
    #[cold]
    fn any_twice_of_many(&self, line: &[u8]) -> bool {
        let names = self.first.iter().chain(&self.more).filter_map(|name| name.text(line));
        let mut all: Vec<_> = names.map(Text::decoded).collect();
        all.sort_unstable();
        all.windows(2).any(|pair| pair[0] == pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(line: &[u8]) -> bool {
        let mut marks = Marks::default();
        let mut cursor = Cursor::new(line, &mut marks, 32);
        cursor.space();
        let read = cursor.value(0).and_then(|_| cursor.end()).is_ok();
        read && (!cursor.beyond_ascii || std::str::from_utf8(line).is_ok())
    }

    fn only_text(line: &str) -> (Vec<u8>, String) {
        let mut marks = Marks::default();
        let mut cursor = Cursor::new(line.as_bytes(), &mut marks, 32);
        let text = cursor.text().ok().and_then(|part| part.text(line.as_bytes())).expect("a string");
        cursor.end().expect("nothing after it");
        let mut written = Vec::new();
        text.write_to(&mut written);
        (text.decoded().into_owned(), String::from_utf8(written).unwrap())
    }

    #[test]
    fn strings_are_decoded_and_written_in_one_form() {
        for (line, meant, written) in [
            (r#""""#, "", ""),
            (r#""plain""#, "plain", "plain"),
            (r#""\u0041\/\"\\""#, "A/\"\\", r#"A/\"\\"#),
            (r#""\u00e9 \ud83d\ude00""#, "é 😀", "é 😀"),
            (
                r#""\u0000\u001F\b\f\n\r\t\u007f""#,
                "\0\u{1f}\u{8}\u{c}\n\r\t\u{7f}",
                "\\u0000\\u001f\\b\\f\\n\\r\\t\u{7f}",
            ),
            (
                r#""é raw, and long enough for words \u0041""#,
                "é raw, and long enough for words A",
                "é raw, and long enough for words A",
            ),
        ] {
            assert_eq!(only_text(line), (meant.as_bytes().to_vec(), written.to_owned()), "{line}");
        }
    }

    #[test]
    fn marks_are_where_the_bytes_are_whatever_the_length() {
        let mut random = crate::random::Random::new(2);
        let mut marks = Marks::default();
        for length in 0..300 {
            let line: Vec<u8> = (0..length).map(|_| random.of(b"aaaaaaaaaaaa\x7f\x20\x21\"\\\x1f\0\n\t")).collect();
            assert!(!marks.mark(&line));
            for at in 0..length {
                let expected = (at..length).find(|at| matches!(line[*at], b'"' | b'\\' | 0..0x20)).unwrap_or(length);
                let found = marks.next(at);
                assert!(found == expected || (expected == length && found >= length), "{length} {at} {found}");
            }
            for at in 0..length {
                let mut line = line.clone();
                line[at] = 0x80;
                assert!(marks.mark(&line));
            }
        }
    }

    #[test]
    fn lone_surrogates_are_seen_and_pairs_are_none() {
        for (line, lone) in [
            (r#""\ud83d\ude00""#, false),
            (r#""\ud83d""#, true),
            (r#""\ude00\ud83d""#, true),
            (r#""\ud83d\ud83d\ude00""#, true),
            (r#""\ud83d \ude00""#, true),
            (r#"{"a":["\uDFFF"]}"#, true),
        ] {
            let mut marks = Marks::default();
            let mut cursor = Cursor::new(line.as_bytes(), &mut marks, 32);
            cursor.value(0).unwrap();
            assert_eq!(cursor.lone_surrogate, lone, "{line}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        assert_eq!(most_open(br#"[{"[[[\"[[":[]}]"#), 3);
        assert_eq!(most_open(b"]]]]["), 1);
        assert_eq!(most_open(b"x[[["), 3);
        let nested = |levels: usize| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert!(reads(&nested(32)) && !reads(&nested(33)));
    }

    #[test]
    fn names_twice_are_found_among_few_and_many() {
        let found = |names: &[&str]| {
            let (mut seen, mut line) = (Names::default(), Vec::new());
            let parts = names.iter().map(|name| {
                let start = line.len();
                line.extend(name.as_bytes());
                let kind = if name.contains('\\') { Kind::Escaped } else { Kind::Text };
                Part { kind, start, end: line.len() }
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().for_each(|part| seen.add(part, &line));
            seen.any_twice(&line)
        };
        assert!(!found(&[]) && !found(&["a", "b"]) && found(&["a", "b", "a"]) && found(&["a", r"\u0061"]));
        let many: Vec<String> = (0..500).map(|number| format!("n{number}")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(!found(&many));
        many.push(r"n\u0033");
        assert!(found(&many));
    }

    /// Pieces that JSON is made of, and some that it isn't: put together by chance, they are near what a parser must tell apart.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"\\u0061\"",
        "\\",
        "\\u12",
        "0",
        "-",
        "1",
        "12",
        ".",
        "5",
        "e",
        "E",
        "+",
        "e+7",
        "true",
        "false",
        "null",
        "nul",
        "NaN",
        " ",
        "\t",
        "\r",
        "\u{b}",
        "\u{1}",
        "é",
        "\u{feff}",
        "\"\\n\"",
        "\"\\x\"",
        "\"b\":1",
        "{\"a\":",
        "[1,",
        "-0",
        "01",
        "1.5e-3",
        "\"long enough that words of eight are read\"",
    ];

    #[test]
    fn what_is_json_is_the_same_as_for_serde_json() {
        let mut random = crate::random::Random::new(1);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..300_000 {
            let line: String = (0..1 + random.below(9)).map(|_| random.of(PIECES)).collect();
            let ours = reads(line.as_bytes());
            let theirs =
                serde_json::from_str::<&serde_json::value::RawValue>(line.trim_matches([' ', '\t', '\r', '\n']))
                    .is_ok();
            assert_eq!(ours, theirs, "{line:?}");
            if ours { good += 1 } else { bad += 1 }
        }
        assert!(good > 5_000 && bad > 100_000, "{good} {bad}");
    }

    #[test]
    fn a_good_line_cut_or_changed_anywhere_is_judged_as_by_serde_json() {
        let line = r#"{"specversion":"1.0","id":"é\u00e9\ud83d\ude00","a":[1,-2.5e3,true,null,{"b":"c"}],"data":{"value":12}}"#.as_bytes();
        assert!(reads(line));
        let theirs = |line: &[u8]| {
            std::str::from_utf8(line).is_ok() && serde_json::from_slice::<&serde_json::value::RawValue>(line).is_ok()
        };
        for at in 0..line.len() {
            assert!(!reads(&line[..at]), "{at}");
            for byte in 0..=255 {
                let mut changed = line.to_vec();
                changed[at] = byte;
                // serde_json's own value takes space around; a newline is in no line.
                let trimmed = changed.trim_ascii();
                assert_eq!(reads(&changed), theirs(trimmed), "{:?}", String::from_utf8_lossy(&changed));
            }
        }
    }
}
