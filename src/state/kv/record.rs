//! Owns the bytes of a journal: a header, then records, each whole or not there.
//!
//! ```text
//! header   "VYRKV1\n\0"  generation u64  boot 36 bytes (0 where unknown)  crc32 of all that
//! record   length u32    crc32 of generation, length and payload          payload
//! payload  kind u8       key length u16  key  value
//! ```
//!
//! Numbers are little-endian. A mark says that all records before an offset are in the files by now.

use std::io::IoSlice;

use bytes::Bytes;

use super::MAX_VALUE_BYTES;

const MAGIC: &[u8; 8] = b"VYRKV1\n\0";
const BOOT: usize = 36;

/// Where the first record begins.
pub(super) const HEADER_LEN: usize = 8 + 8 + BOOT + 4;

const BEFORE_PAYLOAD: usize = 8;
const BEFORE_KEY: usize = 3;

const SET: u8 = 1;
const DELETE: u8 = 2;
const MARK: u8 = 3;

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A key has this value from now on, or none.
    Change(String, Option<Bytes>),
    /// What stands before this offset is in the files.
    Applied(u64),
}

/// Whose records follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Tells the records of one journal from those of another that had the same blocks.
    pub(super) generation: u64,
    /// The start of the machine during which it was written.
    pub(super) boot: Option<String>,
}

impl Header {
    pub(super) fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        if let Some(boot) = self.boot.as_ref().filter(|boot| boot.len() == BOOT) {
            bytes[16..16 + BOOT].copy_from_slice(boot.as_bytes());
        }
        let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` for what isn't one, or is cut short.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let whole = bytes.starts_with(MAGIC)
            && crc32fast::hash(&bytes[..HEADER_LEN - 4]).to_le_bytes() == bytes[HEADER_LEN - 4..];
        let generation = u64::from_le_bytes(*bytes[8..].first_chunk()?);
        let boot = std::str::from_utf8(&bytes[16..16 + BOOT]).ok().filter(|boot| !boot.starts_with('\0'));
        whole.then(|| Self { generation, boot: boot.map(str::to_owned) })
    }
}

/// The bytes of a record in front of its value; `None` for what is too long to be one.
fn front(generation: u64, kind: u8, key: &str, value: &[u8]) -> Option<Vec<u8>> {
    let payload = BEFORE_KEY + key.len() + value.len();
    let length = u32::try_from(payload).ok()?.to_le_bytes();
    let key_length = u16::try_from(key.len()).ok()?.to_le_bytes();
    let mut front = Vec::with_capacity(BEFORE_PAYLOAD + BEFORE_KEY + key.len());
    front.extend_from_slice(&length);
    front.extend_from_slice(&[0; 4]);
    front.push(kind);
    front.extend_from_slice(&key_length);
    front.extend_from_slice(key.as_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&generation.to_le_bytes());
    crc.update(&length);
    crc.update(&front[BEFORE_PAYLOAD..]);
    crc.update(value);
    front[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    Some(front)
}

/// A record that is to be written by one call.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    front: Vec<u8>,
    value: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// `None` for what is too long to be a record.
    pub(super) fn change(generation: u64, key: &str, value: Option<&'a [u8]>) -> Option<Self> {
        let kind = if value.is_some() { SET } else { DELETE };
        let value = value.unwrap_or_default();
        Some(Self { front: front(generation, kind, key, value)?, value })
    }

    pub(super) fn applied(generation: u64, offset: &'a [u8; 8]) -> Option<Self> {
        Some(Self { front: front(generation, MARK, "", offset)?, value: offset })
    }

    pub(super) fn parts(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.front), IoSlice::new(self.value)]
    }

    pub(super) fn len(&self) -> usize {
        self.front.len() + self.value.len()
    }
}

/// The record at the beginning of `bytes`, and its length; `None` when there is no whole one.
pub(super) fn parse(generation: u64, bytes: &[u8]) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    let size = usize::try_from(length).ok().filter(|size| (BEFORE_KEY..=MAX_VALUE_BYTES + 1024).contains(size))?;
    let crc = u32::from_le_bytes(*bytes[4..].first_chunk()?);
    let payload = bytes.get(BEFORE_PAYLOAD..BEFORE_PAYLOAD + size)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    if hasher.finalize() != crc {
        return None;
    }
    let key_length = usize::from(u16::from_le_bytes(*payload[1..].first_chunk()?));
    let (key, value) = payload[BEFORE_KEY..].split_at_checked(key_length)?;
    let key = || std::str::from_utf8(key).ok().map(str::to_owned);
    let record = match payload[0] {
        SET => Record::Change(key()?, Some(Bytes::copy_from_slice(value))),
        DELETE => Record::Change(key()?, None),
        MARK => Record::Applied(u64::from_le_bytes(value.try_into().ok()?)),
        _ => return None,
    };
    Some((record, BEFORE_PAYLOAD + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(encoded: &Encoded<'_>) -> Vec<u8> {
        encoded.parts().iter().flat_map(|part| part.to_vec()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let boot = Some("0a0b0c0d-0000-4000-8000-000000000001".to_owned());
        for header in [Header { generation: 7, boot }, Header { generation: 0, boot: None }] {
            let mut written = header.to_bytes();
            assert_eq!(Header::parse(&written), Some(header));
            assert_eq!(Header::parse(&written[1..]), None);
            written[20] ^= 1;
            assert_eq!(Header::parse(&written), None);
        }
        let offset = 99_u64.to_le_bytes();
        for (encoded, record) in [
            (Encoded::change(1, "k", Some(b"value")), Record::Change("k".into(), Some(Bytes::from_static(b"value")))),
            (Encoded::change(1, "k", Some(b"")), Record::Change("k".into(), Some(Bytes::new()))),
            (Encoded::change(1, "k", None), Record::Change("k".into(), None)),
            (Encoded::applied(1, &offset), Record::Applied(99)),
        ] {
            let encoded = encoded.unwrap();
            let mut written = bytes(&encoded);
            assert_eq!(written.len(), encoded.len());
            assert_eq!(parse(1, &written), Some((record, written.len())));
            assert_eq!(parse(2, &written), None, "of another journal");
            for at in 0..written.len() {
                assert_eq!(parse(1, &written[..at]), None, "cut at {at}");
                written[at] ^= 0x10;
                assert_eq!(parse(1, &written), None, "changed at {at}");
                written[at] ^= 0x10;
            }
        }
    }
}
