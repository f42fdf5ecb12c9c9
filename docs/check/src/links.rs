//! Follows the links of all Markdown files of the project, and compares what they show of other files with those.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use url::Url;

use crate::markdown::Markdown;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Ask for addresses of other hosts, too
    #[arg(long)]
    external: bool,
    /// The folder whose files are read [default: this project]
    #[arg(long)]
    root: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = options.root.as_ref().map_or_else(crate::project, |root| Ok(root.canonicalize()?))?;
    let files = files(&root)?;
    let pages: BTreeMap<PathBuf, Markdown> =
        files.iter().map(|path| Ok((path.clone(), Markdown::read(path)?))).collect::<Result<_>>()?;
    let (mut inside, mut outside, mut dead) = (0, BTreeMap::new(), Vec::new());
    for (path, page) in &pages {
        for link in &page.links {
            let place = format!("{}:{}", path.strip_prefix(&root).unwrap_or(path).display(), link.line);
            if link.target.contains("://") || link.target.starts_with("mailto:") {
                outside.entry(link.target.clone()).or_insert(place);
                continue;
            }
            inside += 1;
            if let Some(why) = follow(path, &link.target, &root, &pages) {
                dead.push(format!("{place}: {}: {why}", link.target));
            }
        }
    }
    let mut parts = 0;
    for (path, page) in &pages {
        for part in &page.parts {
            parts += 1;
            let there = std::fs::read_to_string(root.join(&part.file));
            if !there.as_ref().is_ok_and(|text| text.contains(&part.text)) {
                let why = there.map_or_else(|error| error.to_string(), |_| "it has no such lines".to_owned());
                let name = path.strip_prefix(&root).unwrap_or(path).display();
                dead.push(format!("{name}:{}: from {}: {why}", part.line, part.file));
            }
        }
    }
    for (address, place) in &outside {
        if let Some(why) = other_host(address, options.external) {
            dead.push(format!("{place}: {address}: {why}"));
        }
    }
    for line in &dead {
        println!("dead: {line}");
    }
    let asked = if options.external { "asked for" } else { "not asked for" };
    let (files, outside) = (pages.len(), outside.len());
    println!(
        "{files} files, {inside} links inside, {parts} parts of other files, {outside} other addresses ({asked}), {} dead",
        dead.len()
    );
    Ok(dead.is_empty())
}

/// The project's own Markdown files, those that aren't committed yet included. What lies among sources is a part of a page
/// that a program writes elsewhere.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]);
    let output = git.output().context("git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    let names = String::from_utf8(output.stdout)?;
    let mut files: Vec<PathBuf> = names.split_terminator('\0').map(|name| root.join(name)).collect();
    files.retain(|path| path.exists() && !path.iter().any(|part| part == "src"));
    Ok(files)
}

/// Why a link inside of the project leads nowhere.
fn follow(from: &Path, target: &str, root: &Path, pages: &BTreeMap<PathBuf, Markdown>) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { from.to_owned() } else { from.parent().unwrap_or(root).join(file) };
    let Ok(path) = path.canonicalize() else { return Some("no such file".to_owned()) };
    if !path.starts_with(root) {
        return Some("it leads out of the project".to_owned());
    }
    let page = pages.get(&path)?;
    (!anchor.is_empty() && !page.anchors.contains(anchor)).then(|| format!("no heading makes #{anchor}"))
}

fn other_host(address: &str, ask: bool) -> Option<String> {
    match Url::parse(address) {
        Err(error) => return Some(error.to_string()),
        Ok(url) if !["http", "https", "mailto"].contains(&url.scheme()) => {
            return Some("not an address of the web".to_owned());
        }
        Ok(url) if !ask || url.scheme() == "mailto" => return None,
        Ok(_) => {}
    }
    let curl = ["--silent", "--show-error", "--fail", "--location", "--max-time", "20", "--output", "/dev/null"];
    match Command::new("curl").args(curl).arg(address).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("curl: {error}")),
    }
}
