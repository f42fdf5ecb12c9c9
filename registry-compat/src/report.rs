//! Owns the page that people read: summary, versions, a table for each registry, and the reasons.

use std::fmt::Write as _;

use comfy_table::{Table, presets::ASCII_MARKDOWN};

use crate::matrix::{Cell, Outcome};
use crate::op::Op;
use crate::place::Kind;
use crate::raw::Raw;

/// Notes in the order in which they were first needed.
#[derive(Debug, Default)]
struct Notes(Vec<String>);

impl Notes {
    /// The mark of a note.
    fn mark(&mut self, text: &str) -> String {
        let at = self.0.iter().position(|known| known == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        superscript(at + 1)
    }
}

fn superscript(number: usize) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    number.to_string().bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect()
}

fn table(head: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(head);
    table
}

fn symbol(cell: &Cell, notes: &mut Notes) -> String {
    let sign = match cell.outcome {
        Outcome::Pass => "✓",
        Outcome::Fail => "✗",
        // The reasons are in a list of their own, by client.
        Outcome::None => return "–".to_owned(),
    };
    let why = cell.why.clone().or_else(|| (cell.outcome == Outcome::Fail).then(|| "**unexplained**".to_owned()));
    why.map_or_else(|| sign.to_owned(), |why| format!("{sign}{}", notes.mark(&why)))
}

/// `1–3, 5` of the forms 1, 2, 3 and 5.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => parts.push((number, number)),
        }
    }
    let text = |(start, end): (usize, usize)| if start == end { start.to_string() } else { format!("{start}–{end}") };
    parts.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// One square of a table: several cells where the row has forms.
fn square(cells: &[&Cell], notes: &mut Notes) -> String {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for cell in cells {
        let (sign, form) = (symbol(cell, notes), cell.op.form().unwrap_or_default());
        match groups.iter_mut().find(|(known, _)| *known == sign) {
            Some((_, forms)) => forms.push(form),
            None => groups.push((sign, vec![form])),
        }
    }
    if let [(sign, _)] = &groups[..] {
        return sign.clone();
    }
    let told = groups.iter().filter(|(sign, _)| sign != "–");
    told.map(|(sign, forms)| format!("{sign} {}", ranges(forms))).collect::<Vec<_>>().join("; ")
}

fn count<'a>(cells: impl Iterator<Item = &'a Cell>) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for cell in cells {
        match (&cell.outcome, &cell.why) {
            (Outcome::Pass, _) => counts.0 += 1,
            (Outcome::Fail, Some(_)) => counts.1 += 1,
            (Outcome::Fail, None) => counts.2 += 1,
            (Outcome::None, _) => {}
        }
    }
    counts
}

/// The counts in a sentence.
pub(crate) fn summary(cells: &[Cell]) -> String {
    let (pass, explained, unexplained) = count(cells.iter());
    format!(
        "{} cells tried: {pass} pass, {explained} fail for a reason that is known, {unexplained} fail unexplained.",
        pass + explained + unexplained
    )
}

pub(crate) fn page(raw: &Raw) -> String {
    let clients: Vec<&str> = crate::client::all(false).iter().map(|client| client.name()).collect();
    let clients: Vec<&str> = clients.into_iter().filter(|name| raw.cells.iter().any(|c| c.client == *name)).collect();
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| raw.cells.iter().any(|cell| cell.registry == kind.name())).collect();
    let mut notes = Notes::default();
    let mut body = String::new();
    for kind in &kinds {
        let _ = writeln!(
            body,
            "## {}\n\n{}\n",
            named(raw, kind.name(), kind.tool()),
            registry(raw, *kind, &clients, &mut notes)
        );
    }
    body.push_str("## Notes\n\n");
    for (at, note) in notes.0.iter().enumerate() {
        let _ = writeln!(body, "{}. {note}", at + 1);
    }
    body.push_str("\n## Where there is a dash\n\n");
    let mut dashes = table(["operations", "clients", "why"].map(str::to_owned).to_vec());
    for Absence { why, rows, clients: these } in absences(raw, &clients) {
        let these = if these == clients { "all".to_owned() } else { these.join(", ") };
        dashes.add_row(vec![rows.join("; "), these, why]);
    }
    let _ = writeln!(body, "{dashes}");
    let head = include_str!("head.md").replace("{summary}", &summary(&raw.cells));
    head.replace("{overview}", &overview(raw, &kinds, &clients).to_string()) + "\n" + &body
}

/// `docker-registry 2.8.2`.
fn named(raw: &Raw, name: &str, tool: Option<&str>) -> String {
    let version = tool.and_then(|tool| raw.versions.get(tool));
    version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
}

/// How much passes of what was tried; its heads are the versions.
fn overview(raw: &Raw, kinds: &[Kind], clients: &[&str]) -> Table {
    let mut head = vec!["passes of tried".to_owned()];
    for client in crate::client::all(false) {
        if clients.contains(&client.name()) {
            let name = client.name().trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end();
            head.push(named(raw, name, Some(client.tool())));
        }
    }
    let mut squares = table(head);
    for kind in kinds {
        let mut row = vec![named(raw, kind.name(), kind.tool())];
        for client in clients {
            let mine = raw.cells.iter().filter(|cell| cell.registry == kind.name() && cell.client == *client);
            let (pass, explained, unexplained) = count(mine);
            let tried = pass + explained + unexplained;
            row.push(if tried == 0 { "–".to_owned() } else { format!("{pass} of {tried}") });
        }
        squares.add_row(row);
    }
    squares
}

fn registry(raw: &Raw, kind: Kind, clients: &[&str], notes: &mut Notes) -> Table {
    let mut head = vec![String::new()];
    head.extend(clients.iter().map(|name| (*name).to_owned()));
    let mut squares = table(head);
    let mut titles: Vec<&str> = Op::all(false).into_iter().map(Op::title).collect();
    titles.dedup();
    for title in titles {
        let here = |cell: &&Cell| cell.registry == kind.name() && cell.op.title() == title;
        let row: Vec<&Cell> = raw.cells.iter().filter(here).collect();
        if row.is_empty() {
            continue;
        }
        let mut line = vec![title.to_owned()];
        for client in clients {
            let cells: Vec<&Cell> = row.iter().copied().filter(|cell| cell.client == *client).collect();
            line.push(square(&cells, notes));
        }
        squares.add_row(line);
    }
    squares
}

/// Operations that these clients have nothing for, for one reason.
#[derive(Debug)]
struct Absence<'a> {
    why: String,
    rows: Vec<&'static str>,
    clients: Vec<&'a str>,
}

/// The dashes, by their reason.
fn absences<'a>(raw: &Raw, clients: &[&'a str]) -> Vec<Absence<'a>> {
    let mut all: Vec<Absence<'a>> = Vec::new();
    for client in clients {
        let mut found: Vec<(String, Vec<&'static str>)> = Vec::new();
        for cell in raw.cells.iter().filter(|cell| cell.client == *client && cell.outcome == Outcome::None) {
            let why = cell.why.clone().unwrap_or_default();
            let title = cell.op.title();
            match found.iter_mut().find(|(known, _)| *known == why) {
                Some((_, rows)) if rows.contains(&title) => {}
                Some((_, rows)) => rows.push(title),
                None => found.push((why, vec![title])),
            }
        }
        for (why, rows) in found {
            match all.iter_mut().find(|known| known.why == why && known.rows == rows) {
                Some(known) => known.clients.push(client),
                None => all.push(Absence { why, rows, clients: vec![client] }),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn forms_are_told_in_ranges() {
        for (forms, told) in [(&[1, 2, 3, 5][..], "1–3, 5"), (&[4], "4"), (&[1, 3], "1, 3"), (&[], "")] {
            assert_eq!(ranges(forms), told);
        }
        assert_eq!(superscript(102), "¹⁰²");
    }

    /// The page that is checked in is the one that the results beside it give, and they leave nothing unexplained.
    #[test]
    fn the_page_tells_of_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let raw = Raw::read(&root.join("results/matrix.jsonl")).unwrap();
        let written = std::fs::read_to_string(root.join("../docs/registry-compat.md")).unwrap();
        assert!(page(&raw) == written, "run: cargo run --package registry-compat -- --report");
        let unexplained: Vec<_> = raw.cells.iter().filter(|c| c.outcome == Outcome::Fail && c.why.is_none()).collect();
        assert!(unexplained.is_empty(), "{unexplained:#?}");
        assert_eq!(crate::explain::stale(&raw.cells, false), Vec::<String>::new());
    }
}
