//! Owns the part of the page that is made of the results. Every run counts: what failed, what was explained and what never
//! started are all in the denominator.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets::ASCII_MARKDOWN};

use crate::bad::BAD;
use crate::case::{Case, Maker};
use crate::plot;
use crate::row::{Row, Rows};
use crate::stats::Share;
use crate::vyr::{Engine, Rights};

const BEGIN: &str = "<!-- made by `fallback-corpus report`: begin -->";
const END: &str = "<!-- made by `fallback-corpus report`: end -->";

/// What there is to tell of.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    pub(crate) cases: &'a [Case],
    pub(crate) rows: &'a Rows,
    /// Those of the bad images, if they were run.
    pub(crate) bad: Option<&'a Rows>,
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(head.to_vec());
    table
}

fn engine_name(row: &Row) -> &'static str {
    match row.engine {
        Engine::Libcontainer => "libcontainer",
        Engine::Crun => "crun",
    }
}

fn rights_name(row: &Row) -> &'static str {
    match row.rights {
        Rights::Root => "root",
        Rights::Rootless => "rootless",
    }
}

impl Results<'_> {
    fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }

    /// The shares of the runs in each group that `of` puts a case into.
    fn by(&self, of: impl Fn(&Case) -> Vec<String>) -> BTreeMap<String, Share> {
        let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for row in &self.rows.rows {
            for group in self.case(&row.case).map(&of).unwrap_or_default() {
                groups.entry(group).or_default().push(row.ok);
            }
        }
        groups.into_iter().map(|(name, outcomes)| (name, Share::count(outcomes.into_iter()))).collect()
    }

    fn by_reason(&self) -> BTreeMap<String, Share> {
        self.by(|case| case.reason().map(str::to_owned).into_iter().collect())
    }

    fn by_place(&self) -> BTreeMap<String, Share> {
        let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for row in &self.rows.rows {
            groups.entry(format!("{}, {}", engine_name(row), rights_name(row))).or_default().push(row.ok);
        }
        groups.into_iter().map(|(name, outcomes)| (name, Share::count(outcomes.into_iter()))).collect()
    }

    fn all(&self) -> Share {
        Share::count(self.rows.rows.iter().map(|row| row.ok))
    }

    /// What a page must not be made of: failures without a reason, and runs that are missing.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let rows: Vec<&Row> = self.rows.rows.iter().chain(self.bad.iter().flat_map(|bad| &bad.rows)).collect();
        let mut all = crate::explain::stale(&rows);
        for row in rows.iter().filter(|row| !row.ok && row.why.is_none()) {
            let said = row.said.as_deref().unwrap_or_default();
            all.push(format!("unexplained: {} × {} × {}: {said}", row.case, engine_name(row), rights_name(row)));
        }
        for case in self.cases {
            if !self.rows.rows.iter().any(|row| row.case == case.name) {
                all.push(format!("{} was never run", case.name));
            }
        }
        for row in self.rows.rows.iter().filter(|row| self.case(&row.case).is_none()) {
            all.push(format!("{} is no case any more", row.case));
        }
        all
    }

    /// Writes the page's part and the picture.
    pub(crate) fn write(&self, page: &Path, picture: &Path) -> Result<()> {
        let old =
            std::fs::read_to_string(page).unwrap_or_else(|_| format!("# The container fallback\n\n{BEGIN}\n{END}\n"));
        let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{} has no `{BEGIN}`", page.display()))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{} has no `{END}`", page.display()))?;
        std::fs::write(page, format!("{before}{BEGIN}\n{}\n{END}{after}", self.text()))?;
        if let Some(folder) = picture.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(picture, self.picture())?;
        Ok(())
    }

    fn picture(&self) -> String {
        let mut lines = vec![("all runs".to_owned(), self.all())];
        for group in [self.by_place(), self.by_reason(), self.by(|case| vec![case.maker.name().to_owned()])] {
            lines.push((String::new(), Share::default()));
            lines.extend(group);
        }
        plot::shares(&lines)
    }

    /// The part of the page.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let facts = &self.rows.facts;
        let versions: Vec<String> = facts.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let _ = writeln!(
            text,
            "\n**{}** of all runs did what they should: the container ran, for the right reason, with the right output and \
             exit code. In brackets the count, and the interval of 95 % (Wilson).\n\n\
             Every image holds real software and is made by a real tool, or byte by byte; beside it stands a Wasm that can't start here. \
             `fallback-corpus` pushes both as one artifact to a node of its own, submits it, and compares. Each case passes on \
             the reference, umoci and crun. Nothing is left out of what is counted. The cases are \
             chosen for their variety, not drawn by lot, and runs of one case on two engines aren't independent: go by the \
             intervals by engine and rights. It needs root and Debian's archive:\n\n\
             ```console\n\
             $ envs/tools corpus\n\
             $ cargo build --package vyr --package fallback-corpus\n\
             $ cargo run --package fallback-corpus -- check\n\
             $ cargo run --package fallback-corpus -- run\n\
             $ cargo run --package fallback-corpus -- bad\n\
             $ cargo run --package fallback-corpus -- report\n\
             ```\n\n\
             {} cases; {} CPUs, Linux {}, Debian {}, cgroups of {}; {}.\n\n![Shares with intervals](img/oci-fallback.svg)\n",
            self.all().words(),
            self.cases.len(),
            facts.cpus,
            facts.kernel,
            facts.debian,
            facts.cgroups,
            versions.join(", ")
        );
        let mut section = |title: &str, table: &Table| {
            let _ = writeln!(text, "### {title}\n\n{table}\n");
        };
        section("By engine and rights", &shares("engine and rights", self.by_place()));
        section("By the reason why the Wasm didn't start", &shares("reason", self.by_reason()));
        section("By what made the image", &shares("maker", self.by(|case| vec![case.maker.name().to_owned()])));
        section(
            "By what is special about image and run",
            &shares("feature", self.by(|c| c.features().into_iter().collect())),
        );
        section("Failures", &self.failures(&self.rows.rows));
        section("Cases", &self.table_of_cases());
        if let Some(bad) = self.bad {
            section("Bad images", &table_of_bad(bad));
            section("Bad images that did otherwise", &self.failures(&bad.rows));
        }
        text
    }

    fn failures(&self, rows: &[Row]) -> Table {
        let mut out = table(&["case", "engine, rights", "what happened", "why"]);
        for row in rows.iter().filter(|row| !row.ok) {
            let said = row.said.clone().unwrap_or_default().replace('|', "\\|");
            let place = format!("{}, {}", engine_name(row), rights_name(row));
            out.add_row([row.case.clone(), place, said, row.why.unwrap_or("**unexplained**").to_owned()]);
        }
        if out.is_empty() {
            out.add_row(["none", "", "", ""]);
        }
        out
    }

    fn table_of_cases(&self) -> Table {
        let mut out = table(&["case", "software", "image by", "Wasm beside it", "reason", "runs that did"]);
        for case in self.cases {
            let runs = Share::count(self.rows.rows.iter().filter(|row| row.case == case.name).map(|row| row.ok));
            let reason = case.reason().unwrap_or_default();
            let runs = format!("{} of {}", runs.good, runs.all);
            out.add_row([&case.name, &case.software, case.maker.name(), &case.wasm, reason, &runs]);
        }
        out
    }
}

fn shares(head: &str, groups: BTreeMap<String, Share>) -> Table {
    let mut out = table(&[head, "did what they should"]);
    for (name, share) in groups {
        out.add_row([name, share.words()]);
    }
    out
}

fn table_of_bad(rows: &Rows) -> Table {
    let mut out = table(&["image", "what it tries", "has to end with", "root", "rootless"]);
    for bad in BAD {
        let sign = |rights: Rights| {
            let found = rows.rows.iter().find(|row| row.case == bad.name && row.rights == rights);
            found.map_or("–", |row| if row.ok { "✓" } else { "✗" }).to_owned()
        };
        out.add_row([
            bad.name.to_owned(),
            bad.tries.into(),
            bad.expected(),
            sign(Rights::Root),
            sign(Rights::Rootless),
        ]);
    }
    out
}

/// One line for a terminal.
pub(crate) fn summary(rows: &Rows, cases: &[Case]) -> String {
    let makers = Maker::ALL.map(|maker| {
        let mine = rows.rows.iter().filter(|row| cases.iter().any(|case| case.name == row.case && case.maker == maker));
        let share = Share::count(mine.map(|row| row.ok));
        format!("{} {} of {}", maker.name(), share.good, share.all)
    });
    format!("{}; {}", Share::count(rows.rows.iter().map(|row| row.ok)).words(), makers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row;

    fn row(case: &str, engine: Engine, ok: bool) -> Row {
        Row {
            case: case.into(),
            engine,
            rights: Rights::Root,
            ok,
            said: (!ok).then(|| "went | wrong".to_owned()),
            prepare_us: None,
            start_us: None,
            run_us: None,
            why: None,
        }
    }

    /// The page that is checked in is the one that the results beside it give, and they leave nothing unexplained. Until
    /// there are results there is no such page.
    #[test]
    fn the_page_tells_of_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !root.join("results/cases.jsonl").exists() {
            return;
        }
        let cases = crate::case::all(&root.join("cases")).unwrap();
        let rows = Rows::read(&root.join("results/cases.jsonl")).unwrap();
        let bad = Rows::read(&root.join("results/bad.jsonl")).ok();
        let results = Results { cases: &cases, rows: &rows, bad: bad.as_ref() };
        let written = std::fs::read_to_string(root.join("../../docs/oci-fallback.md")).unwrap();
        assert!(written.contains(&results.text()), "run: cargo run --package fallback-corpus -- report");
        assert_eq!(results.complaints(), Vec::<String>::new());
    }

    #[test]
    fn everything_counts_and_nothing_is_left_unsaid() {
        let folder = tempfile::tempdir().unwrap();
        let cases = crate::case::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
        let mut rows = Rows::open(&folder.path().join("rows.jsonl"), row::facts(BTreeMap::new())).unwrap();
        rows.put(row("go-static", Engine::Crun, true)).unwrap();
        rows.put(row("go-static", Engine::Libcontainer, false)).unwrap();
        rows.put(row("go-static", Engine::Libcontainer, false)).unwrap();
        let rows = Rows::read(&folder.path().join("rows.jsonl")).unwrap();
        let results = Results { cases: &cases[..], rows: &rows, bad: None };
        assert_eq!(results.all(), Share { good: 1, all: 2 });
        assert_eq!(results.by_reason()["unknown_import"], Share { good: 1, all: 2 });
        let complaints = results.complaints();
        assert_eq!(complaints.iter().filter(|line| line.starts_with("unexplained")).count(), 1);
        assert!(complaints.iter().any(|line| line.contains("never run")));
        let page = folder.path().join("page.md");
        results.write(&page, &folder.path().join("img/p.svg")).unwrap();
        let first = std::fs::read_to_string(&page).unwrap();
        assert!(first.contains("50.0 % (1 of 2") && first.contains("went \\| wrong") && first.contains("unexplained"));
        results.write(&page, &folder.path().join("img/p.svg")).unwrap();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), first, "writing it again changes nothing");
    }
}
