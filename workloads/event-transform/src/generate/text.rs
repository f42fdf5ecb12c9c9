//! Texts as the generator writes them.

/// A string in the one form of the outputs, with its quotes.
pub(super) fn json(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\u{8}' => quoted += "\\b",
            '\u{c}' => quoted += "\\f",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            control if control < ' ' => quoted += &format!("\\u{:04x}", u32::from(control)),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

/// A string of which every character is escaped, with its quotes; capitals for one kind of hexadecimal digits.
pub(super) fn all_escaped(text: &str, capitals: bool) -> String {
    let units =
        text.encode_utf16().map(|unit| if capitals { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
    format!("\"{}\"", units.collect::<String>())
}

/// Milliseconds since 1970 as RFC 3339 has them.
pub(super) fn time(milliseconds: i64) -> String {
    let (seconds, milli) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    let (date, clock) = (date(seconds), seconds.rem_euclid(86_400));
    format!("{date}T{:02}:{:02}:{:02}.{milli:03}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

/// The day of a second after 1970, found by counting.
fn date(seconds: i64) -> String {
    let (mut left, mut year) = (seconds.div_euclid(86_400), 1970);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for days in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        assert_eq!(time(1_772_323_212_345), "2026-03-01T00:00:12.345Z");
        assert_eq!(time(951_868_799_000), "2000-02-29T23:59:59.000Z");
        assert_eq!(time(1_798_761_599_999), "2026-12-31T23:59:59.999Z");
    }
}
