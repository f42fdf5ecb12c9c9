//! Owns one tar header block, in the forms that POSIX, GNU and the time before them have given it.
//!
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html> and
//! <https://www.gnu.org/software/tar/manual/html_node/Standard.html>

/// The size of a header, and what data is padded to, in bytes.
pub(super) const BLOCK: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK];

/// What a header starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Link,
    Symlink,
    Char,
    BlockDevice,
    Folder,
    Fifo,
}

/// A moment: seconds since 1970 and nanoseconds.
pub(super) type Moment = (i64, u32);

/// What one entry of an archive is, its extensions applied.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) changed: Moment,
    pub(super) read: Option<Moment>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A field up to its first zero byte.
pub(super) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// A number: octal with any blanks around it, or two's complement with the highest bit set, as GNU tar and star write it.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    const BAD: &str = "a number in its header can't be read";
    if let Some(first) = field.first()
        && first & 0x80 != 0
    {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { i128::from(first | 0x80) - 256 } else { i128::from(first & 0x7f) };
        for byte in &field[1..] {
            value = (value << 8) | i128::from(*byte);
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return Err(BAD);
            }
        }
        return i64::try_from(value).map_err(|_| BAD);
    }
    let trimmed = text(field).trim_ascii();
    let mut value: i64 = 0;
    for byte in trimmed {
        if !(b'0'..=b'7').contains(byte) {
            return Err(BAD);
        }
        value = value.checked_mul(8).and_then(|v| v.checked_add(i64::from(byte - b'0'))).ok_or(BAD)?;
    }
    Ok(value)
}

/// Whether the block's sum is right: over unsigned bytes, or over signed ones as some have written it.
pub(super) fn sum_is_right(block: &Block) -> bool {
    let Ok(said) = number(&block[148..156]) else {
        return false;
    };
    let blanks = i64::from(b' ') * 8;
    let outside = block[..148].iter().chain(&block[156..]);
    let unsigned = blanks + outside.clone().map(|b| i64::from(*b)).sum::<i64>();
    let signed = blanks + outside.map(|b| i64::from(b.cast_signed())).sum::<i64>();
    said == unsigned || said == signed
}

/// GNU tar's own form, where other things lie in the place of the prefix.
pub(super) fn is_gnu(block: &Block) -> bool {
    &block[257..265] == b"ustar  \0"
}

/// The name: with its prefix, in the form that has one.
fn name(block: &Block) -> Vec<u8> {
    let short = text(&block[..100]);
    let prefix = text(&block[345..500]);
    if &block[257..262] == b"ustar" && !is_gnu(block) && !prefix.is_empty() {
        // star's own form ends the prefix earlier, with times after it.
        let prefix = if &block[508..512] == b"tar\0" { text(&block[345..476]) } else { prefix };
        let mut name = prefix.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(short);
        return name;
    }
    short.to_vec()
}

/// Narrows a number of a header.
pub(super) fn narrow(value: i64) -> Result<u32, &'static str> {
    match u32::try_from(value) {
        // All ones means "as it is" to chown.
        Ok(value) if value != u32::MAX => Ok(value),
        _ => Err("an owner in its header is out of range"),
    }
}

/// Reads a block whose sum is right. `S` is GNU's sparse file; the caller reads its map.
pub(super) fn read(block: &Block) -> Result<Header, &'static str> {
    let name = name(block);
    let kind = match block[156] {
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Link,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        _ => return Err("its type isn't known"),
    };
    let size = u64::try_from(number(&block[124..136])?).map_err(|_| "its size is negative")?;
    Ok(Header {
        kind,
        name,
        target: text(&block[157..257]).to_vec(),
        mode: u32::try_from(number(&block[100..108])? & 0o7777).map_err(|_| "its mode can't be read")?,
        uid: narrow(number(&block[108..116])?)?,
        gid: narrow(number(&block[116..124])?)?,
        size,
        changed: (number(&block[136..148])?, 0),
        read: None,
        attributes: Vec::new(),
    })
}
