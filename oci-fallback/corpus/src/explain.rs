//! Owns the reasons found for the failures: a failure without one fails the report, and so does a reason for what works.

use crate::row::Row;
use crate::vyr::{Engine, Rights};

/// Why certain runs fail.
#[derive(Debug)]
pub(crate) struct Explanation {
    case: &'static str,
    /// Nothing stands for any.
    engine: Option<Engine>,
    rights: Option<Rights>,
    /// Words of what went wrong, so that another failure of the same run isn't taken for this one.
    said: &'static str,
    why: &'static str,
}

/// To be filled when VYR has been measured.
const EXPLANATIONS: &[Explanation] = &[];

/// `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
}

impl Explanation {
    fn covers(&self, row: &Row) -> bool {
        fits(self.case, &row.case)
            && self.engine.is_none_or(|engine| engine == row.engine)
            && self.rights.is_none_or(|rights| rights == row.rights)
    }
}

/// Gives a failure its reason.
pub(crate) fn apply(row: &mut Row) {
    row.why = None;
    if !row.ok {
        let said = row.said.as_deref().unwrap_or_default();
        row.why = EXPLANATIONS.iter().find(|one| one.covers(row) && said.contains(one.said)).map(|one| one.why);
    }
}

/// What is said of runs that pass or that nobody made.
pub(crate) fn stale(rows: &[&Row]) -> Vec<String> {
    let mut stale = Vec::new();
    for one in EXPLANATIONS {
        let covered: Vec<_> = rows.iter().filter(|row| one.covers(row)).collect();
        if !covered.iter().any(|row| row.why == Some(one.why)) {
            stale.push(format!("{} explains nothing: {}", one.case, one.why));
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fitting) in
            [("*", "x", true), ("a-*", "a-b", true), ("a", "a-b", false), ("*-b", "a-b", true)]
        {
            assert_eq!(fits(pattern, text), fitting, "{pattern} {text}");
        }
    }
}
