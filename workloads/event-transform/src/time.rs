//! Times of events: the form of RFC 3339 that the contract takes, as seconds since 1970 in UTC.

/// Days from 1970-01-01 to a day of the Gregorian calendar (Howard Hinnant's algorithm).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[inline(always)]
fn two(text: [u8; 2]) -> Option<i64> {
    let digit = |byte: u8| Some(i64::from(byte.wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    Some(digit(text[0])? * 10 + digit(text[1])?)
}

/// Reads times; the last day is kept, since most events are of the same.
#[derive(Debug, Default)]
pub(crate) struct Times {
    date: [u8; 10],
    /// The second that `date` begins with.
    begins: i64,
}

impl Times {
    /// `YYYY-MM-DDThh:mm:ss[.f…](Z|±hh:mm)` as whole seconds since 1970 in UTC.
    #[inline(never)]
    pub(crate) fn seconds(&mut self, text: &[u8]) -> Option<i64> {
        let (date, rest) = text.split_first_chunk::<10>()?;
        let (&[b'T', h, i, b':', m, n, b':', s, t], rest) = rest.split_first_chunk::<9>()? else { return None };
        let (hour, minute, second) = (two([h, i])?, two([m, n])?, two([s, t])?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let zone = match rest.split_first() {
            Some((b'.', fraction)) => {
                let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
                fraction.get(digits..).filter(|_| (1..=9).contains(&digits))?
            }
            _ => rest,
        };
        let ahead = match *zone {
            [b'Z'] => 0,
            [sign @ (b'+' | b'-'), h, i, b':', m, n] => {
                let (hours, minutes) = (two([h, i])?, two([m, n])?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let seconds = hours * 3600 + minutes * 60;
                if sign == b'+' { seconds } else { -seconds }
            }
            _ => return None,
        };
        if *date != self.date {
            self.begins = Self::begins(*date)?;
            self.date = *date;
        }
        Some(self.begins + hour * 3600 + minute * 60 + second - ahead)
    }

    #[cold]
    fn begins(date: [u8; 10]) -> Option<i64> {
        let [c, d, y, z, b'-', m, n, b'-', e, f] = date else { return None };
        let (year, month, day) = (two([c, d])? * 100 + two([y, z])?, two([m, n])?, two([e, f])?);
        let good = year >= 1970 && (1..=12).contains(&month) && (1..=days_of_month(year, month)).contains(&day);
        good.then(|| days(year, month, day) * 86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_times_are_seconds() {
        // As `date -u -d … +%s` has them.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00+00:01", -60),
            ("2026-03-01T00:00:12.345Z", 1_772_323_212),
            ("2026-03-01T01:30:12+01:30", 1_772_323_212),
            ("2026-02-28T22:00:12.999999999-02:00", 1_772_323_212),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2100-02-28T00:00:00Z", 4_107_456_000),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139),
        ] {
            assert_eq!(Times::default().seconds(text.as_bytes()), Some(seconds), "{text}");
        }
    }

    #[test]
    fn other_times_are_none() {
        for text in [
            "",
            "Z",
            "2026-03-01",
            "2026-03-01T00:00:00",
            "2026-03-01 00:00:00Z",
            "2026-03-01t00:00:00Z",
            "2026-03-01T00:00:00z",
            "2026-3-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-03-00T00:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T00:60:00Z",
            "2026-03-01T00:00:60Z",
            "2026-03-01T00:00:00.Z",
            "2026-03-01T00:00:00.1234567890Z",
            "2026-03-01T00:00:00,5Z",
            "2026-03-01T00:00:00+0100",
            "2026-03-01T00:00:00+24:00",
            "2026-03-01T00:00:00+01:60",
            "2026-03-01T00:00:00Z ",
            "1969-12-31T23:59:59Z",
            "+2026-03-01T00:00:00Z",
            "2026-03-01T00:00:0٣Z",
            "2026-03-01T00:00Z",
            "20260301T000000Z",
        ] {
            assert_eq!(Times::default().seconds(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_kept_day_changes_nothing() {
        let mut times = Times::default();
        let texts = [
            "2026-03-01T00:00:00Z",
            "2026-03-01T00:00:01Z",
            "2026-02-30T00:00:00Z",
            "2026-03-02T00:00:00Z",
            "2026-03-01T00:00:00Z",
        ];
        for text in texts {
            assert_eq!(times.seconds(text.as_bytes()), Times::default().seconds(text.as_bytes()), "{text}");
        }
    }
}
