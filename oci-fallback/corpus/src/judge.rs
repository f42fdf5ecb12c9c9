//! Owns whether what a run gave is what its case says, and in what words it isn't.

use regex::bytes::RegexBuilder;
use sha2::{Digest as _, Sha256};

use crate::case::Case;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Came {
    /// The exit code, unless there was none.
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    /// For the words of a failure alone.
    pub(crate) stderr: Vec<u8>,
}

/// The end of a text, on one line.
pub(crate) fn shortened(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = text.chars().count().saturating_sub(most);
    if skip == 0 { text } else { format!("… {}", text.chars().skip(skip).collect::<String>()) }
}

/// What is wrong, or nothing.
pub(crate) fn wrong(case: &Case, came: &Came) -> Option<String> {
    let mut complaints = Vec::new();
    if came.exit != Some(case.exit) {
        let code = came.exit.map_or("none".to_owned(), |code| code.to_string());
        complaints.push(format!("exit code {code} in place of {}", case.exit));
    }
    let fits = match (&case.stdout, &case.stdout_regex) {
        (Some(text), _) => came.stdout == text.as_bytes(),
        (None, Some(pattern)) => {
            let whole = RegexBuilder::new(&format!("\\A(?:{pattern})\\z")).dot_matches_new_line(true).build();
            whole.is_ok_and(|whole| whole.is_match(&came.stdout))
        }
        (None, None) => case.stdout_sha256.as_deref() == Some(&hex::encode(Sha256::digest(&came.stdout))),
    };
    if !fits {
        complaints.push(format!("standard output is {:?}", shortened(&came.stdout, 300)));
    }
    if complaints.is_empty() {
        return None;
    }
    if !came.stderr.is_empty() {
        complaints.push(format!("standard error: {}", shortened(&came.stderr, 400)));
    }
    Some(complaints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(more: &str) -> Case {
        let text =
            format!("name = 'x'\nsoftware = ''\nmaker = 'hand'\nwasm = 'none'\nlayers = [{{ base = true }}]\n{more}\n");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn output_and_code_have_to_fit() {
        let came = |exit, stdout: &[u8]| Came { exit, stdout: stdout.to_vec(), stderr: Vec::new() };
        let exact = case("stdout = \"a\\n\"");
        assert_eq!(wrong(&exact, &came(Some(0), b"a\n")), None);
        assert!(wrong(&exact, &came(Some(0), b"a")).is_some());
        assert!(wrong(&exact, &came(None, b"a\n")).is_some_and(|words| words.contains("none")));
        let pattern = case("stdout-regex = 'v\\d+\\n'\nexit = 3");
        assert_eq!(wrong(&pattern, &came(Some(3), b"v12\n")), None);
        assert!(wrong(&pattern, &came(Some(3), b"xv12\n")).is_some());
        assert!(wrong(&pattern, &came(Some(0), b"v12\n")).is_some_and(|words| words.contains("exit code 0")));
    }
}
