//! Owns the reading of flags.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The flags of a call, each at most once, and what stands without one.
#[derive(Debug, Default)]
pub struct Args {
    values: BTreeMap<String, String>,
    /// What belongs to no flag.
    pub plain: Vec<String>,
}

impl Args {
    /// Reads `args` (without the program's name); every flag takes a value, as `--flag VALUE` or `--flag=VALUE`.
    ///
    /// # Errors
    /// A flag that isn't among `known`, that stands twice or lacks its value, in words.
    pub fn parse(args: impl IntoIterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                found.plain.push(arg);
                continue;
            }
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (arg, None),
            };
            if !known.contains(&flag.as_str()) {
                return Err(format!("there is no {flag}"));
            }
            let value = value.or_else(|| args.next()).ok_or_else(|| format!("{flag} needs a value"))?;
            if found.values.insert(flag.clone(), value).is_some() {
                return Err(format!("{flag} stands twice"));
            }
        }
        Ok(found)
    }

    /// The text of a flag.
    #[must_use]
    pub fn text(&self, flag: &str) -> Option<&str> {
        self.values.get(flag).map(String::as_str)
    }

    /// The number of a flag.
    ///
    /// # Errors
    /// It is no such number, in words.
    pub fn number<T: FromStr>(&self, flag: &str) -> Result<Option<T>, String> {
        let read = |text: &str| text.parse().map_err(|_| format!("{flag} {text}: this is not a number that fits"));
        self.text(flag).map(read).transpose()
    }

    /// The number of a flag that has to be there.
    ///
    /// # Errors
    /// It is missing or no such number, in words.
    pub fn needed<T: FromStr>(&self, flag: &str) -> Result<T, String> {
        self.number(flag)?.ok_or_else(|| format!("{flag} is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        Args::parse(args.iter().map(|arg| (*arg).to_owned()), &["--to", "--count"])
    }

    #[test]
    fn flags_are_read_in_both_forms() {
        let args = parse(&["folder", "--to", "a=b", "--count=7"]).unwrap();
        assert_eq!((args.text("--to"), args.needed::<u64>("--count")), (Some("a=b"), Ok(7)));
        assert_eq!(args.plain, ["folder"]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for bad in [&["--from", "x"][..], &["--to"], &["--to", "a", "--to", "b"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let args = parse(&["--count", "-1"]).unwrap();
        assert!(args.number::<u64>("--count").is_err() && args.needed::<u64>("--to").is_err());
    }
}
