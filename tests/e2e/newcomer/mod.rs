//! What somebody meets in the first hour, as it is really said. Each test writes a transcript, and compares it with the file
//! of that name beside this one; `SNAPSHOTS=overwrite` writes the files anew. `docs/reference/errors.md` shows them.

mod guest;
mod machine;
mod node;
mod registry;
mod state;
mod trust;
mod wasm;
mod words;

use std::path::Path;
use std::process::Command;

use regex::Regex;
use snapbox::{Assert, Data};

use crate::support::{Home, Output, Registry, run};

/// Commands and what they said, as somebody sees them.
struct Transcript<'a> {
    home: &'a Home,
    text: String,
    /// What stands for what is another at each run.
    names: Vec<(String, String)>,
}

impl<'a> Transcript<'a> {
    /// An empty one; `title` says what went wrong.
    fn new(home: &'a Home, title: &str) -> Self {
        let names = vec![
            (home.vyr_home().display().to_string(), "~/.local/share/vyr".to_owned()),
            (format!("{}/", home.work().display()), String::new()),
            (home.work().display().to_string(), "~/work".to_owned()),
        ];
        Self { home, text: format!("# {title}\n"), names }
    }

    /// Shows `shown` where `real` stands.
    fn with(mut self, real: impl Into<String>, shown: &str) -> Self {
        // The longest first, so that no name spoils another.
        self.names.push((real.into(), shown.to_owned()));
        self.names.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
        self
    }

    /// Shows the registry's address as people write it.
    fn of(self, registry: &Registry) -> Self {
        self.with(registry.host(), "localhost:5000")
    }

    /// Types a command of `vyr`.
    #[track_caller]
    fn vyr(&mut self, arguments: &[&str]) -> Output {
        let output = self.home.vyr(arguments);
        self.add(&typed("vyr", arguments), &output);
        output
    }

    /// Types one that is run in another way: with a variable, as another user.
    #[track_caller]
    fn ran(&mut self, shown: &str, command: Command, stdin: &[u8]) -> Output {
        let output = run(command, stdin);
        self.add(shown, &output);
        output
    }

    fn add(&mut self, shown: &str, output: &Output) {
        if !self.text.ends_with("# \n") && self.text.lines().count() > 1 {
            self.text.push('\n');
        }
        self.text.push_str(&format!("$ {shown}\n"));
        for said in [&output.stdout, &output.stderr] {
            self.text.push_str(said);
            if !said.is_empty() && !said.ends_with('\n') {
                self.text.push('\n');
            }
        }
        if output.status != 0 {
            self.text.push_str(&format!("(exit code {})\n", output.status));
        }
    }

    /// Compares it with the file `name`.
    #[track_caller]
    fn is(self, name: &str) {
        let mut text = self.text;
        for (real, shown) in &self.names {
            text = text.replace(real.as_str(), shown);
        }
        text = numbered(&text, r"\b(sha256:)[0-9a-f]{64}\b", |number| format!("sha256:{}…", digits(number, 12)));
        text = numbered(&text, r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", |number| {
            format!("01a21687-8975-70ee-9fe0-{number:012}")
        });
        for (pattern, shown) in [
            (r"the process \d+", "the process 4711"),
            (r"\(\d+ bytes were free there\)", "(4096 bytes were free there)"),
            // The resolver's words for the same.
            (r"Temporary failure in name resolution|No address associated with hostname", "Name or service not known"),
        ] {
            text = Regex::new(pattern).unwrap().replace_all(&text, shown).into_owned();
        }
        assert!(!text.contains("/tmp/"), "{name} shows what is another elsewhere:\n{text}");
        // A guest's own words are its own.
        let own = |line: &&str| ["error:", "warning:", "note:", "  why:"].iter().any(|label| line.starts_with(label));
        assert!(!text.lines().filter(own).any(|line| line.contains("os error")), "{name}: {text}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/newcomer").join(name).with_extension("txt");
        // Without wildcards and the like: what is in the file is what is said.
        let expected = Data::read_from(&file, None).raw();
        Assert::new().action_env("SNAPSHOTS").eq(Data::text(text).raw(), expected);
    }
}

/// `number` as so many digits, each the same.
fn digits(number: usize, many: usize) -> String {
    let digit = char::from_digit(u32::try_from(number % 16).unwrap(), 16).unwrap();
    std::iter::repeat_n(digit, many).collect()
}

/// Replaces what a pattern matches: the same text by the same number, from 1 in their order.
fn numbered(text: &str, pattern: &str, shown: impl Fn(usize) -> String) -> String {
    let mut seen: Vec<String> = Vec::new();
    let replaced = Regex::new(pattern).unwrap().replace_all(text, |found: &regex::Captures<'_>| {
        let found = found[0].to_owned();
        let at = seen.iter().position(|other| *other == found).unwrap_or_else(|| {
            seen.push(found);
            seen.len() - 1
        });
        shown(at + 1)
    });
    replaced.into_owned()
}

/// A command as it is typed.
fn typed(program: &str, arguments: &[&str]) -> String {
    let plain =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=@,%+".contains(&b));
    let words = arguments.iter().map(|word| if plain(word) { (*word).to_owned() } else { format!("'{word}'") });
    std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Pushes a guest to the registry as `NAME:v1`, signed with this home's own key.
#[track_caller]
fn push_guest(home: &Home, registry: &Registry, name: &str) -> String {
    let reference = registry.reference(name.trim_end_matches("-p1"), "v1");
    home.vyr(["push", &reference, vyr_guests::guest(name).to_str().unwrap()]).expect(0);
    reference
}

/// Writes a Wasm file of the work folder from its text form.
#[track_caller]
fn wat(home: &Home, name: &str, text: &str) {
    home.write(name, wat::parse_str(text).unwrap());
}
