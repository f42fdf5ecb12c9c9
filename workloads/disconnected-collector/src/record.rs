//! Owns a reading and the one line of text that stands for it.
//!
//! ```text
//! {"seq":7,"time":1767225607000,"value":-3.250,"check":"5b0c3a91"}
//! ```
//!
//! A reading has exactly one such line, so that lines can be compared by their bytes. `check` is the CRC-32 of what stands
//! before `,"check"`: it finds what a disk or a link has altered, and is no signature.

use std::fmt;

/// More than any line has, with its end.
pub const MAX_LINE: usize = 128;

/// 2026-01-01T00:00:00Z, in milliseconds: when the simulated device was switched on.
const BEGINNING: u64 = 1_767_225_600_000;

/// One reading of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it was made, by the device's clock, in milliseconds since 1970.
    pub time: u64,
    /// A thousand times its value.
    pub milli: i64,
}

impl Reading {
    /// The reading `seq` of the simulated device `seed`: always the same one, a second after the one before.
    #[must_use]
    pub fn simulated(seed: u64, seq: u64) -> Self {
        // SplitMix64.
        let mut x = seed.wrapping_add(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let milli = i64::try_from(x % 60_001).unwrap_or(0) - 20_000;
        Self { seq, time: BEGINNING.wrapping_add(seq.wrapping_mul(1000)), milli }
    }

    /// Its line, without an end.
    #[must_use]
    pub fn line(&self) -> String {
        let body = self.to_string();
        let check = crc32(body.as_bytes());
        format!("{body},\"check\":\"{check:08x}\"}}")
    }

    /// Appends its line and a newline.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.line().as_bytes());
        to.push(b'\n');
    }

    /// The reading that a line (without its end) stands for; `None` when it is the line of none.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let (seq, rest) = text.strip_prefix("{\"seq\":")?.split_once(",\"time\":")?;
        let (time, rest) = rest.split_once(",\"value\":")?;
        let (value, _) = rest.split_once(',')?;
        let (whole, part) = value.split_once('.')?;
        let thousandths: i64 = part.parse::<u16>().ok()?.into();
        let size = whole.trim_start_matches('-').parse::<u32>().ok()?;
        let size = i64::from(size) * 1000 + thousandths;
        let milli = if whole.starts_with('-') { -size } else { size };
        let found = Self { seq: seq.parse().ok()?, time: time.parse().ok()?, milli };
        // The check, and every other way to write the same numbers.
        (found.line() == text).then_some(found)
    }
}

/// What is checked.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, size) = (if self.milli < 0 { "-" } else { "" }, self.milli.unsigned_abs());
        let (whole, part) = (size / 1000, size % 1000);
        write!(f, "{{\"seq\":{},\"time\":{},\"value\":{sign}{whole}.{part:03}", self.seq, self.time)
    }
}

/// CRC-32 as in zlib.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n: u32 = 0;
        while n < 256 {
            let (mut value, mut bit) = (n, 0);
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[n as usize] = value;
            n += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_reading_comes_back_from_its_line() {
        for seq in (1..2000).chain([999_999_999_999, u64::MAX]) {
            let reading = Reading::simulated(7, seq);
            let mut line = Vec::new();
            reading.write(&mut line);
            assert!(line.len() <= MAX_LINE, "{}", line.len());
            assert_eq!(Reading::parse(line.trim_ascii_end()), Some(reading));
        }
        for milli in [0, 1, -1, 999, -999, 1000, -1000, 123_456, -123_456] {
            let reading = Reading { milli, ..Reading::simulated(1, 1) };
            assert_eq!(Reading::parse(reading.line().as_bytes()), Some(reading));
        }
    }

    #[test]
    fn the_format_stays_as_it_is() {
        assert_eq!(
            Reading { seq: 7, time: 1_767_225_607_000, milli: -3250 }.to_string(),
            r#"{"seq":7,"time":1767225607000,"value":-3.250"#
        );
        let (one, other) = (Reading::simulated(1, 5), Reading::simulated(2, 5));
        assert_ne!(one.milli, other.milli, "a seed is a device of its own");
        assert!((-20_000..=40_000).contains(&one.milli));
    }

    #[test]
    fn one_bit_is_found_and_so_is_what_is_cut_off() {
        let line = Reading::simulated(3, 42).line().into_bytes();
        for at in 0..line.len() {
            assert_eq!(Reading::parse(&line[..at]), None);
            for bit in 0..8 {
                let mut altered = line.clone();
                altered[at] ^= 1 << bit;
                assert_eq!(Reading::parse(&altered), None, "byte {at}, bit {bit}");
            }
        }
    }
}
