//! Owns the file name of a key.

use std::borrow::Cow;
use std::io;

/// What a file system takes for one name, in bytes.
const MOST: usize = 255;

/// The name of the file that holds `key`: the key itself, with `/`, `%`, NUL and a `.` at its beginning as `%` and two hex
/// digits.
///
/// # Errors
/// `InvalidInput` for an empty key, and for one whose name would be longer than 255 bytes.
pub(super) fn file_name(key: &str) -> io::Result<Cow<'_, str>> {
    if key.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a key can't be empty"));
    }
    let name = encoded(key);
    if name.len() > MOST {
        let why = format!(
            "a key can have {MOST} bytes (`/`, `%`, NUL and a leading `.` count three), this one has {}",
            name.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(name)
}

fn encoded(key: &str) -> Cow<'_, str> {
    if !key.starts_with('.') && !key.bytes().any(|b| matches!(b, b'/' | b'%' | 0)) {
        return Cow::Borrowed(key);
    }
    let mut name = String::with_capacity(key.len() + 8);
    for (at, c) in key.char_indices() {
        match c {
            '/' => name.push_str("%2F"),
            '%' => name.push_str("%25"),
            '\0' => name.push_str("%00"),
            '.' if at == 0 => name.push_str("%2E"),
            c => name.push(c),
        }
    }
    Cow::Owned(name)
}

/// The key that a file holds; `None` for a name that no key has, since then `get` wouldn't find it either.
pub(super) fn of_file_name(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() || name.len() > MOST || name.starts_with('.') {
        return None;
    }
    if !name.contains('%') {
        return Some(Cow::Borrowed(name));
    }
    let mut key = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('%') {
        key.push_str(before);
        key.push(match after.get(..2)? {
            "2F" => '/',
            "25" => '%',
            "00" => '\0',
            "2E" if key.is_empty() => '.',
            _ => return None,
        });
        rest = after.get(2..)?;
    }
    key.push_str(rest);
    Some(Cow::Owned(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_file_name_and_back() {
        for (key, name) in [
            ("a", "a"),
            ("a b ä", "a b ä"),
            ("a/b", "a%2Fb"),
            ("..", "%2E."),
            (".", "%2E"),
            ("a.b", "a.b"),
            ("%2F", "%252F"),
            ("\0", "%00"),
            ("/.", "%2F."),
        ] {
            assert_eq!(file_name(key).unwrap(), name);
            assert_eq!(of_file_name(name).unwrap(), key);
        }
        for name in ["", ".", "..", ".x", "%", "%2", "%2f", "a%2E", "%41", "%é"] {
            assert_eq!(of_file_name(name), None, "{name}");
        }
        assert!(file_name("").is_err());
        assert!(file_name(&"x".repeat(255)).is_ok());
        assert!(file_name(&"x".repeat(256)).is_err());
        assert!(file_name(&format!("{}/", "x".repeat(253))).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_key_comes_back(key in ".{1,60}") {
            let name = file_name(&key).unwrap();
            proptest::prop_assert!(!name.contains('/') && !name.contains('\0') && !name.starts_with('.'));
            proptest::prop_assert_eq!(of_file_name(&name).unwrap(), key.as_str());
        }

        #[test]
        fn a_name_that_is_read_is_the_name_that_is_written(name in "[.%2EF50ax]{1,8}") {
            if let Some(key) = of_file_name(&name) {
                proptest::prop_assert_eq!(file_name(&key).unwrap(), name.as_str());
            }
        }
    }
}
