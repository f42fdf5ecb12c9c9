//! Builds the site with mdbook, and follows the links of what came of it.
//!
//! mdbook is given a copy of the pages in which what it can't show is put otherwise: links to files that aren't pages
//! become their words, and diagrams become pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use regex::Regex;
use sha2::{Digest as _, Sha256};

use crate::markdown::Markdown;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the site goes; what is there is replaced [default: nowhere, it is only checked]
    #[arg(long)]
    to: Option<PathBuf>,
}

/// What of docs/ belongs to the site, by extension.
const PAGES: [&str; 5] = ["md", "svg", "png", "toml", "css"];

pub(crate) fn run(options: &Options) -> Result<bool> {
    let mdbook = crate::kit::tool("mdbook")?;
    let work = tempfile::Builder::new().prefix("docs-site").tempdir()?;
    let (source, built) = (work.path().join("docs"), work.path().join("site"));
    let docs = crate::project()?.join("docs");
    let pages = stage(&docs, &docs, &source)?;
    let output = Command::new(&mdbook).arg("build").arg(&source).arg("--dest-dir").arg(&built).output();
    let output = output.with_context(|| mdbook.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mdbook: {said}");
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    let mut dead = follow(&built)?;
    dead.extend(complaints.into_iter().map(str::to_owned));
    dead.extend(unlisted(&docs)?);
    for line in &dead {
        println!("{line}");
    }
    if let Some(to) = &options.to {
        copy(&built, to)?;
        println!("{} has the site", to.display());
    }
    println!("{pages} files put in, {} problems", dead.len());
    Ok(dead.is_empty())
}

/// Copies the pages below `folder`, each as mdbook can show it.
fn stage(docs: &Path, folder: &Path, to: &Path) -> Result<usize> {
    std::fs::create_dir_all(to)?;
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            // A package of Rust is no part of the site.
            if !path.join("Cargo.toml").exists() {
                count += stage(docs, &path, &to.join(name))?;
            }
            continue;
        }
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if !PAGES.contains(&extension) {
            continue;
        }
        count += 1;
        // What it says of the pages is already put as mdbook wants it.
        if extension == "md" && name != "SUMMARY.md" {
            std::fs::write(to.join(name), for_the_site(docs, &path)?)?;
        } else {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(count)
}

fn for_the_site(docs: &Path, path: &Path) -> Result<String> {
    let page = Markdown::read(path)?;
    let mut changes = Vec::new();
    for link in &page.links {
        let Some((place, shown)) = &link.place else { continue };
        let file = link.target.split('#').next().unwrap_or_default();
        if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
            continue;
        }
        let target = plain(&path.parent().unwrap_or(docs).join(file));
        if !target.starts_with(docs) || target.is_dir() {
            changes.push((place.clone(), page.text[shown.clone()].to_owned()));
        } else if target == docs.join("README.md") {
            // mdbook makes index.html of it, and leaves the links.
            changes.push((place.clone(), page.text[place.clone()].replace("README.md", "index.md")));
        }
    }
    for place in &page.diagrams {
        let line = page.text[..place.start].matches('\n').count() + 1;
        let (whole, image) =
            picture(docs, &page.text, place).with_context(|| format!("{}:{line}", crate::shown(path)))?;
        changes.push((whole, format!("![diagram]({image})\n")));
    }
    changes.sort_by_key(|(place, _)| place.start);
    let mut text = page.text.clone();
    for (place, new) in changes.into_iter().rev() {
        text.replace_range(place, &new);
    }
    Ok(text)
}

/// The picture of a diagram, by the comment before it, and the place in the text of both.
fn picture(docs: &Path, text: &str, place: &Range<usize>) -> Result<(Range<usize>, String)> {
    let start = "<!-- on the site: ";
    let before = text[..place.start].trim_end();
    let comment = before.rfind(start).filter(|_| before.ends_with(" -->"));
    let comment = comment.context("a diagram has no picture; docs/check/draw.py says how to give it one")?;
    let name = &before[comment + start.len()..before.len() - " -->".len()];
    let code: String = text[place.clone()]
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .fold(String::new(), |code, line| code + line + "\n");
    let drawn = std::fs::read_to_string(docs.join(name)).with_context(|| name.to_owned())?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(code)));
    ensure!(
        drawn.contains(&digest),
        "the diagram has changed since {name} was drawn; draw it anew: docs/check/draw.py"
    );
    Ok((comment..place.end, name.to_owned()))
}

/// Without `.` and `..`, whether the file is there or not.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// Pages that nothing in SUMMARY.md leads to: the site doesn't have them.
fn unlisted(docs: &Path) -> Result<Vec<String>> {
    let summary = Markdown::read(&docs.join("SUMMARY.md"))?;
    let listed: BTreeSet<PathBuf> = summary.links.iter().map(|link| docs.join(&link.target)).collect();
    let mut lost = Vec::new();
    for path in below(docs)? {
        let package = path.ancestors().any(|folder| folder.starts_with(docs) && folder.join("Cargo.toml").exists());
        let page =
            !package && path.extension().is_some_and(|extension| extension == "md") && !path.ends_with("SUMMARY.md");
        if page && !listed.contains(&path) {
            lost.push(format!("{} is not in docs/SUMMARY.md", crate::shown(&path)));
        }
    }
    Ok(lost)
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.append(&mut below(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

/// Links and pictures of a built site that lead nowhere.
fn follow(built: &Path) -> Result<Vec<String>> {
    let (link, id) = (Regex::new(r#"\b(?:href|src)="([^"]*)""#)?, Regex::new(r#"\b(?:id|name)="([^"]*)""#)?);
    let mut pages = BTreeMap::new();
    for path in below(built)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "html")) {
        let text = std::fs::read_to_string(&path)?;
        let ids: BTreeSet<String> = id.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        let links: BTreeSet<String> = link.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        pages.insert(path, (ids, links));
    }
    let mut dead = Vec::new();
    for (path, (_, links)) in &pages {
        // It is shown for any address, so its links have the site's root before them.
        if path.ends_with("404.html") {
            continue;
        }
        for target in links {
            let elsewhere =
                ["http:", "https:", "mailto:", "data:", "javascript:"].iter().any(|scheme| target.starts_with(scheme));
            if elsewhere || target.is_empty() {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let wanted = if file.is_empty() { path.clone() } else { plain(&path.parent().unwrap_or(built).join(file)) };
            let name = path.strip_prefix(built).unwrap_or(path).display();
            if !wanted.exists() {
                dead.push(format!("{name}: {target}: no such file"));
            } else if let Some((ids, _)) = pages.get(&wanted)
                && !anchor.is_empty()
                && !ids.contains(anchor)
            {
                dead.push(format!("{name}: {target}: nothing has that id"));
            }
        }
    }
    Ok(dead)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        ensure!(to.join("index.html").exists(), "{} is no site; give a folder that is one, or none yet", to.display());
        std::fs::remove_dir_all(to)?;
    }
    for path in below(from)? {
        let target = to.join(path.strip_prefix(from)?);
        std::fs::create_dir_all(target.parent().unwrap_or(to))?;
        std::fs::copy(&path, &target)?;
    }
    Ok(())
}
