//! The words that the programs are called with.

use std::collections::VecDeque;
use std::str::FromStr;

use crate::failure::Failure;

/// What is left of the call.
#[derive(Debug)]
pub(crate) struct Arguments {
    program: &'static str,
    words: VecDeque<String>,
}

impl Arguments {
    pub(crate) fn new(program: &'static str, words: impl IntoIterator<Item = String>) -> Self {
        Self { program, words: words.into_iter().collect() }
    }

    pub(crate) fn next(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// The value after `option`.
    pub(crate) fn value<T: FromStr>(&mut self, option: &str) -> Result<T, Failure> {
        let Some(word) = self.next() else { return Err(self.usage(format!("{option} needs a value"))) };
        word.parse().map_err(|_| self.usage(format!("`{word}` is no value for {option}")))
    }

    pub(crate) fn needed<T>(&self, value: Option<T>, option: &str) -> Result<T, Failure> {
        value.ok_or_else(|| self.usage(format!("{option} is missing")))
    }

    pub(crate) fn usage(&self, why: impl Into<String>) -> Failure {
        let Self { program, .. } = self;
        Failure::usage(&format!("understand the call of {program}"), why, &format!("see {program} --help"))
    }
}
