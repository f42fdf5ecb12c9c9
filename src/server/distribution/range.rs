//! Owns byte ranges: of a download (RFC 9110, section 14) and of an upload's chunk (distribution spec 1.1, "Pushing a
//! blob in chunks").

/// What of a blob is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    All,
    /// From one byte to another, both included.
    Part(u64, u64),
    /// Nothing that it has.
    Nothing,
}

/// Reads a `Range` header against a blob of `size` bytes. What can't be read, and what asks for several ranges, is as if it
/// weren't there.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Wanted::All };
    let Some((from, to)) = spec.trim().split_once('-') else { return Wanted::All };
    match (number(from), number(to), from.is_empty(), to.is_empty()) {
        (Some(from), Some(to), ..) if from <= to && from < size => Wanted::Part(from, to.min(size - 1)),
        (Some(from), _, _, true) if from < size => Wanted::Part(from, size - 1),
        (_, Some(last), true, _) if last > 0 && size > 0 => Wanted::Part(size.saturating_sub(last), size - 1),
        (Some(_), Some(_), ..) | (Some(_), _, _, true) | (_, Some(_), true, _) => Wanted::Nothing,
        _ => Wanted::All,
    }
}

/// Reads the `Content-Range` of a chunk, `<first>-<last>`: where it begins and how long it is. `None` for what isn't one.
pub(super) fn chunk(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some((first, length))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_download() {
        for (header, size, is) in [
            ("bytes=0-0", 10, Wanted::Part(0, 0)),
            ("bytes=2-5", 10, Wanted::Part(2, 5)),
            ("bytes=2-", 10, Wanted::Part(2, 9)),
            ("bytes=2-50", 10, Wanted::Part(2, 9)),
            ("bytes=-3", 10, Wanted::Part(7, 9)),
            ("bytes=-30", 10, Wanted::Part(0, 9)),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=10-11", 10, Wanted::Nothing),
            ("bytes=5-2", 10, Wanted::Nothing),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=0-", 0, Wanted::Nothing),
            ("bytes=-1", 0, Wanted::Nothing),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("bytes=99999999999999999999-", 10, Wanted::All),
            ("items=0-1", 10, Wanted::All),
        ] {
            assert_eq!(wanted(Some(header), size), is, "{header} of {size}");
        }
        assert_eq!(wanted(None, 10), Wanted::All);
    }

    #[test]
    fn ranges_of_a_chunk() {
        assert_eq!(chunk("0-0"), Some((0, 1)));
        assert_eq!(chunk("10-19"), Some((10, 10)));
        for bad in ["", "-", "5", "5-", "-5", "6-5", "bytes 0-1/2", "0-18446744073709551615", "a-b", "0-+1"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }
}
