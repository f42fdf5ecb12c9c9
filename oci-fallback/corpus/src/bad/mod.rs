//! Owns the images that must not run, or must not do what they try: each with the way in which it has to fail.

mod archives;
mod images;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use regex::RegexBuilder;

use crate::cache::{Cache, key};
use crate::judge::shortened;
use crate::kit::{Kit, timed};
use crate::row::{Row, Rows};
use crate::run::tell;
use crate::vyr::{Engine, Node, Rights};

pub(crate) use images::BAD;

/// An image, and what has to come of `vyr run`.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    /// What it tries, for people.
    pub(crate) tries: &'static str,
    /// Writes its layout.
    make: fn(&images::Bench<'_>) -> Result<()>,
    /// Options of the run.
    options: &'static [&'static str],
    /// The exit codes that do.
    exits: &'static [i32],
    /// A regular expression for what is printed, outputs together.
    words: &'static str,
    /// Within how many seconds it has to be over.
    seconds: u32,
}

impl Bad {
    /// The way in which it has to end, for people.
    pub(crate) fn expected(&self) -> String {
        let exits: Vec<String> = self.exits.iter().map(ToString::to_string).collect();
        format!("exit {}, `{}`", exits.join(" or "), self.words.replace('|', "\\|"))
    }
}

/// A file of the host that some of them try to write.
pub(crate) fn outside() -> PathBuf {
    std::env::temp_dir().join("vyr-corpus-escaped")
}

/// The layout of one, made unless it's there.
fn layout(cache: &Cache, kit: &Kit, bad: &Bad) -> Result<PathBuf> {
    let name =
        format!("bad-{}-{}", bad.name, key(&(bad.name, include_str!("images.rs"), include_str!("archives.rs")))?);
    let path = cache.path(Path::new("images").join(name));
    cache.once(path, |made| (bad.make)(&images::Bench::new(made, kit)?))
}

/// Makes all, runs none: shows that they can be made, and that umoci refuses or survives them.
pub(crate) fn build(cache: &Cache, kit: &Kit) -> Result<()> {
    for bad in BAD {
        let began = Instant::now();
        let layout = layout(cache, kit, bad)?;
        let bytes: u64 = std::fs::read_dir(layout.join("blobs/sha256"))?
            .map(|entry| Ok(entry?.metadata()?.len()))
            .sum::<Result<u64>>()?;
        println!("made {} ({} KiB, {:.1} s)", bad.name, bytes >> 10, began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Runs each against one VYR.
pub(crate) fn run(
    cache: &Cache,
    kit: &Kit,
    vyr: &Path,
    rights: Rights,
    only: &[String],
    rows: &mut Rows,
) -> Result<()> {
    let engine = Engine::Libcontainer;
    let node = Node::start(kit, vyr, engine, rights)?;
    for bad in BAD.iter().filter(|bad| only.iter().all(|word| bad.name.contains(word.as_str()))) {
        let layout = layout(cache, kit, bad)?;
        drop(std::fs::remove_file(outside()));
        let began = Instant::now();
        let options: Vec<String> = bad.options.iter().map(|word| (*word).to_owned()).collect();
        let before = node.bytes()?;
        let output = node.run_layout(&layout, &options, bad.seconds)?;
        let said = wrong(bad, output.status.code(), &[output.stdout, output.stderr].concat(), began.elapsed())
            .or_else(|| (!node.lives()).then(|| "the node beside it no longer answers".to_owned()))
            .or_else(|| {
                let left = node.bytes().unwrap_or(u64::MAX).saturating_sub(before);
                (left > LEFT).then(|| format!("{} MiB are left on disk", left >> 20))
            });
        let row = Row {
            case: bad.name.to_owned(),
            engine,
            rights,
            ok: said.is_none(),
            said,
            prepare_us: None,
            start_us: None,
            run_us: Some(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)),
            why: None,
        };
        tell(&row);
        rows.put(row)?;
    }
    Ok(())
}

/// What a run that failed may leave: the image itself is kept, and none of these is larger.
const LEFT: u64 = 256 << 20;

fn wrong(bad: &Bad, exit: Option<i32>, said: &[u8], took: Duration) -> Option<String> {
    let words = shortened(said, 300);
    if outside().exists() {
        drop(std::fs::remove_file(outside()));
        return Some(format!("it wrote outside of its root: {words}"));
    }
    if took >= Duration::from_secs(bad.seconds.into()) {
        return Some(format!("not over after {} s: {words}", bad.seconds));
    }
    if !exit.is_some_and(|code| bad.exits.contains(&code)) {
        return Some(format!("exit code {exit:?}, not one of {:?}: {words}", bad.exits));
    }
    let pattern = RegexBuilder::new(bad.words).case_insensitive(true).build();
    let fits = pattern.is_ok_and(|pattern| pattern.is_match(&String::from_utf8_lossy(said)));
    (!fits).then(|| format!("`{}` isn't in: {words}", bad.words))
}

/// The reference's answer to those that umoci can read: it must not write outside either.
pub(crate) fn check(cache: &Cache, kit: &Kit) -> Result<()> {
    for bad in BAD.iter().filter(|bad| bad.name.starts_with("escape")) {
        let scratch = cache.scratch()?;
        let layout = layout(cache, kit, bad)?;
        let mut command = std::process::Command::new(kit.path("umoci")?);
        command.args(["unpack", "--image", &format!("{}:{}", layout.display(), crate::oci::TAG)]);
        command.arg(scratch.path().join("bundle"));
        let output = timed(command, 60, b"")?;
        let escaped = outside().exists();
        drop(std::fs::remove_file(outside()));
        println!("{}: umoci {}, wrote outside: {escaped}", bad.name, output.status);
    }
    Ok(())
}
