//! Owns the form of a task's output, and what an offset into it means.
//!
//! A frame is: stream (1 byte), attempt (1 byte), length (4 bytes), time in microseconds since the Unix epoch (8 bytes), all
//! little-endian, then the bytes.

use bytes::Bytes;
use vyr_proto::v0::{LogEntry, LogStream};

use crate::task::timestamp;

/// How many bytes of a frame come before its data.
pub(super) const HEAD: usize = 14;
/// The longest frame's data: a longer write is cut into several.
pub(super) const FRAME: usize = 32 << 10;

/// How many bits of an offset count bytes: a TiB, far more than is kept of any output. Those above them fit, with these,
/// into what a double holds exactly, for readers that know no other number.
const AT_BITS: u32 = 40;

/// A place in an output: so many bytes from its beginning, as they stood when the attempt was the last.
///
/// What a node had in memory when it was killed is lost, and other frames come to stand there: those of the attempt after
/// it. A reader that was given what is lost has come too far by the count alone, maybe into the middle of a frame; by the
/// attempt it is seen, and goes on where the next attempt's output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) attempt: u8,
    pub(super) at: u64,
}

impl Place {
    pub(super) fn from_offset(offset: u64) -> Self {
        let attempt = u8::try_from(offset >> AT_BITS).unwrap_or(u8::MAX).saturating_add(1);
        Self { attempt, at: offset & ((1 << AT_BITS) - 1) }
    }

    pub(super) fn offset(self) -> u64 {
        u64::from(self.attempt.saturating_sub(1)) << AT_BITS | self.at
    }
}

#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) stream: u8,
    pub(super) attempt: u8,
    pub(super) time: i64,
    pub(super) data: &'a [u8],
}

/// The whole frames at the beginning of `bytes`.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let [stream, attempt, length @ ..] = head;
        let (length, time) = length.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let time = i64::from_le_bytes(time.try_into().ok()?);
        let (data, after) = rest.split_at_checked(length)?;
        bytes = after;
        Some(Frame { stream: *stream, attempt: *attempt, time, data })
    })
}

/// The writes in `bytes`, which stand at `at`; and where the last whole one ends.
pub(super) fn piece(bytes: &[u8], mut at: u64, only: LogStream) -> (Vec<LogEntry>, u64) {
    let mut entries = Vec::new();
    for frame in frames(bytes) {
        at += (HEAD + frame.data.len()) as u64;
        let stream = if frame.stream == 1 { LogStream::Stdout } else { LogStream::Stderr };
        if only == LogStream::Unspecified || only == stream {
            entries.push(LogEntry {
                stream: stream.into(),
                time: Some(timestamp(frame.time)),
                data: Bytes::copy_from_slice(frame.data),
                attempt: frame.attempt.into(),
            });
        }
    }
    (entries, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_place_and_grows_with_both() {
        assert_eq!(Place::from_offset(0), Place { attempt: 1, at: 0 });
        let places = [(1, 0), (1, 1), (1, (1 << AT_BITS) - 1), (2, 0), (100, 7), (255, 64 << 20)];
        let offsets = places.map(|(attempt, at)| Place { attempt, at }.offset());
        assert!(offsets.is_sorted() && offsets.iter().all(|offset| *offset < 1 << 53), "{offsets:?}");
        assert_eq!(offsets.map(Place::from_offset).map(|p| (p.attempt, p.at)), places);
        // What nobody gave out is no reason to fail.
        assert_eq!(Place::from_offset(u64::MAX).attempt, 255);
    }
}
