//! Owns the extended headers of POSIX archives: the records, and what they change in the entry that follows.

use super::attributes::Attributes;
use super::header::{Header, Moment, narrow};

/// The largest value of an extended attribute in bytes: Linux has no larger ones.
const LARGEST_ATTRIBUTE: usize = 64 << 10;
/// The most that all attributes of one entry may hold, in bytes with what each takes in memory.
const LARGEST_ATTRIBUTES: usize = 256 << 10;

/// What a sparse file's records say, in the three forms that GNU tar has written.
///
/// <https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html>
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Vec<u64>,
}

/// Records that change the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) name: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) sparse: Option<Sparse>,
    sparse_name: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    changed: Option<Moment>,
    read: Option<Moment>,
    attributes: Attributes,
    attributes_size: usize,
}

const BAD: &str = "its extended header can't be read";

/// A decimal number.
pub(super) fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(BAD)
}

fn owner(text: &[u8]) -> Result<u32, &'static str> {
    narrow(i64::try_from(decimal(text)?).map_err(|_| BAD)?)
}

/// `-12.5`: the fraction counts away from zero in the text, forward in time here.
fn moment(text: &[u8]) -> Result<Moment, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| BAD)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| BAD)?;
    let mut nanos = 0;
    for (place, digit) in fraction.bytes().enumerate() {
        if !digit.is_ascii_digit() {
            return Err(BAD);
        }
        if place < 9 {
            nanos = nanos * 10 + u32::from(digit - b'0');
        }
    }
    for _ in fraction.len()..9 {
        nanos *= 10;
    }
    if whole.starts_with('-') && nanos > 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of one extended header: `LENGTH KEY=VALUE\n`, the length counting all of it.
pub(super) fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    let mut records = Vec::new();
    while !rest.is_empty() && rest[0] != 0 {
        let blank = rest.iter().take(20).position(|b| *b == b' ').ok_or(BAD)?;
        let length = usize::try_from(decimal(&rest[..blank])?).map_err(|_| BAD)?;
        if length <= blank + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(BAD);
        }
        let record = &rest[blank + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
        records.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Ok(records)
}

impl Extensions {
    /// Takes the records of a header of type `x`. An empty value takes a record back.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<(), &'static str> {
        for (key, value) in records(data)? {
            if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
                continue;
            }
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value)?),
                b"uid" => self.uid = Some(owner(value)?),
                b"gid" => self.gid = Some(owner(value)?),
                b"mtime" => self.changed = Some(moment(value)?),
                b"atime" => self.read = Some(moment(value)?),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.take_attribute(name, value)?;
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        self.take_sparse(key, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_attribute(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if value.len() > LARGEST_ATTRIBUTE {
            return Err("an extended attribute is larger than 64 KiB");
        }
        self.attributes_size += name.len() + value.len() + 2 * size_of::<Vec<u8>>();
        if self.attributes_size > LARGEST_ATTRIBUTES {
            return Err("the extended attributes of one entry are larger than 256 KiB together");
        }
        self.attributes.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let sparse = self.sparse.get_or_insert_default();
        match key {
            b"major" => sparse.major = Some(decimal(value)?),
            b"minor" => sparse.minor = Some(decimal(value)?),
            b"name" => self.sparse_name = Some(value.to_vec()),
            b"realsize" | b"size" => sparse.real_size = Some(decimal(value)?),
            // 0.0 has a record for each number, 0.1 one record for all.
            b"offset" | b"numbytes" => sparse.map.push(decimal(value)?),
            b"map" => {
                sparse.map = value.split(|b| *b == b',').map(decimal).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes the entry. Its stored size is the caller's.
    pub(super) fn apply(&mut self, header: &mut Header) {
        if let Some(name) = self.sparse_name.take().or_else(|| self.name.take()) {
            header.name = name;
        }
        if let Some(target) = self.target.take() {
            header.target = target;
        }
        header.uid = self.uid.unwrap_or(header.uid);
        header.gid = self.gid.unwrap_or(header.gid);
        header.changed = self.changed.unwrap_or(header.changed);
        header.read = self.read;
        header.attributes = std::mem::take(&mut self.attributes);
    }
}
