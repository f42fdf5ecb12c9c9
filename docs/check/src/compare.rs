//! Owns when output is as it was written: what differs from run to run counts as the same, and `…` stands for the rest.
//!
//! `…` in a line is any text; on a line of its own, any lines. Digests, ids, times and how long something took are
//! compared by their kind, so that a page shows those of a real run. Widths of columns aren't compared.

use std::sync::LazyLock;

use regex::Regex;
use snapbox::Data;
use snapbox::filter::NormalizeToExpected;
use snapbox::report::{Palette, write_diff};

/// What is different in each run, and what stands for it.
static KINDS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "[ID]"),
        (r"\bsha256:[0-9a-f]{12,64}\b", "sha256:[DIGEST]"),
        (r"\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16})\b", "[HEX]"),
        (r"\bvyrt?_[A-Za-z0-9_-]{20,}", "[TOKEN]"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?", "[TIME]"),
        (r"\b\d+(?:\.\d+)? ?(?:ns|µs|ms)\b|\b\d+\.\d+ ?s\b", "[TOOK]"),
        (r"\buid:\d+\b", "uid:[UID]"),
        // In a column; in a sentence it is a number that counts.
        (r" \d+s  ", " [TOOK]  "),
        // Where a bar begins, and whether its span decided how long all took, is a matter of microseconds.
        (" *[█░]+", " [BAR]"),
        (r"(?m)^\* ( *[a-z]+ .*\[BAR\])", "  $1"),
        // Columns are as wide as what is in them.
        (" {2,}", "  "),
        ("─+", "─"),
    ]
    .map(|(pattern, kind)| (Regex::new(pattern).expect("it is a constant"), kind))
    .into()
});

/// Ids and digests that were cut short by whoever wrote the page.
static CUT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b(?:[0-9a-f][0-9a-f-]{3,}|vyrt?_[A-Za-z0-9_-]*)…").expect("it is a constant"));

fn by_kind(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, kind) in &*KINDS {
        text = pattern.replace_all(&text, *kind).into_owned();
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What is written on the page, as a pattern.
fn pattern(expected: &str) -> String {
    let text = by_kind(&CUT.replace_all(expected, "…"));
    text.lines().map(|line| if line == "…" { "...\n".to_owned() } else { line.replace('…', "[..]") + "\n" }).collect()
}

/// Nothing where the output is as written; else the difference, line by line.
pub(crate) fn difference(expected: &str, actual: &str) -> Option<String> {
    let (expected, actual) = (Data::text(pattern(expected)), Data::text(by_kind(actual)));
    let actual = NormalizeToExpected::new().redact().normalize(actual, &expected);
    if actual == expected {
        return None;
    }
    let mut diff = String::new();
    let (written, printed) = ("written", "printed");
    let done = write_diff(&mut diff, &expected, &actual, Some(&written), Some(&printed), Palette::plain());
    done.expect("a string takes all");
    Some(diff)
}

/// The output as a page should have it: lines that were right stay as they are written, `…` for many among them.
pub(crate) fn rewritten(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let same = |expected: &str, actual: &str| difference(expected, actual).is_none();
    let mut new = Vec::new();
    let mut at = 0;
    for (number, line) in expected.iter().enumerate() {
        let rest = &actual[at..];
        if *line == "…" {
            let Some(next) = expected.get(number + 1) else {
                new.push("…");
                at = actual.len();
                break;
            };
            if let Some(skipped) = rest.iter().position(|printed| same(next, printed)) {
                new.push("…");
                at += skipped;
            }
        } else if let Some(added) = rest.iter().position(|printed| same(line, printed)) {
            new.extend(&rest[..added]);
            new.push(line);
            at += added + 1;
        }
    }
    new.extend(&actual[at..]);
    new.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_the_same() {
        let written = "pushed sha256:6f700a182696… of 01a213d9-6b35-7763-a12b-196331e176a7\n\
                       \x20 took  946µs ██  at 2026-11-25T18:07:17.997505Z\n…\nlast one\n";
        let printed = "pushed sha256:aaaaaaaaaaaa… of 01a2152f-74b9-73c7-a847-51091980741b\n\
                       \x20 took    1.2ms ████████  at 2027-01-01T00:00:00Z\nmore\nand more\nlast one\n";
        assert_eq!(difference(written, printed), None);
        let whole = "x@sha256:99d0c0ba4c31f22f8a1d0e1cc3b5b3a6f7cbd09dbb86d0e53a6b3a4c3c7b0d11\n";
        assert_eq!(difference("x@sha256:99d0c0ba…\n", whole), None);
        assert_eq!(difference("task 01a213d9-…\n", "task 01a2152f-74b9-73c7-a847-51091980741b\n"), None);
    }

    #[test]
    fn all_else_is_a_difference() {
        for (written, printed) in [
            ("one\n", "two\n"),
            ("one\n", "one\ntwo\n"),
            ("one\ntwo\n", "one\n"),
            ("", "one\n"),
            ("one\n", ""),
            ("starts …\n", "begins so\n"),
            ("…\nlast\n", "first\nno\n"),
            ("at sha256:99d0c0ba4c31…\n", "at sha512:99d0c0ba4c31…\n"),
            ("after 2s\n", "after 3s\n"),
        ] {
            let difference = difference(written, printed);
            assert!(difference.is_some(), "{written:?} is not {printed:?}");
        }
    }

    #[test]
    fn lines_that_were_right_stay_as_they_are() {
        let written = "id 01a213d9-6b35-7763-a12b-196331e176a7\nold\n";
        let printed = "id 01a2152f-74b9-73c7-a847-51091980741b\nnew\n";
        assert_eq!(rewritten(written, printed), "id 01a213d9-6b35-7763-a12b-196331e176a7\nnew\n");
        assert_eq!(rewritten("a\n…\nb …\nold\n", "a\n1\n2\nb 3\nnew\nnext\n"), "a\n…\nb …\nnew\nnext\n");
        assert_eq!(rewritten("a\nc\n…\n", "a\nb\nc\nd\n"), "a\nb\nc\n…\n");
        assert_eq!(rewritten("a\n…\nb\n", "c\n"), "c\n");
    }
}
