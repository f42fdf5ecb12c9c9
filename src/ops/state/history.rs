//! Owns what the far side believes: the chains in a repository, read, checked link by link, and put in an order.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::pull::Lost;
use super::remote::{Found, Remote};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::state::{SyncTag, WriterId};

/// Manifests that are fetched at once.
const AT_ONCE: usize = 16;

/// A place from which more than one chain goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForkAt {
    /// The last place that they share; 0 where they share none.
    pub after: u64,
    /// Who goes on from there.
    pub writers: Vec<WriterId>,
}

/// One writer's segments, without a gap.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) writer: WriterId,
    pub(super) segments: Vec<Found>,
    /// Whose segment the first one follows.
    pub(super) follows: Option<WriterId>,
}

/// All writers' segments, checked.
#[derive(Debug)]
pub(super) struct History {
    pub(super) lines: BTreeMap<WriterId, Line>,
    pub(super) lost: Vec<Lost>,
    pub(super) forks: Vec<ForkAt>,
}

fn broken(why: String) -> Error {
    Error::new(ErrorKind::Refused, why).hint(
        "the repository doesn't hold what was pushed to it: look who wrote to it, or push it again from the node that has it",
    )
}

impl Line {
    pub(super) fn last(&self) -> Option<&Found> {
        self.segments.last()
    }
}

impl History {
    /// Reads a repository's chains. Nothing of their signatures is looked at.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none; [`ErrorKind::Refused`] for a gap, another's segment, a link that doesn't
    /// hold, or more than one lineage in a chain.
    pub(super) async fn read(remote: &Remote) -> Result<Self> {
        let mut listing = remote.listing().await?;
        let heads: BTreeMap<WriterId, u64> = stream::iter(listing.segments.keys().cloned().collect::<Vec<_>>())
            .map(|writer| async move {
                let head = remote.segment(&SyncTag::Head(writer.clone())).await?;
                Ok::<_, Error>(head.map(|head| (writer, head.segment.seq)))
            })
            .buffered(AT_ONCE)
            .try_filter_map(async |head| Ok(head))
            .try_collect()
            .await?;
        // A writer may push while this reads, and moves its head after its segments: one that was read before they are listed is
        // never beyond them. Nor does every registry list at one moment: a place that came before another may be missed for once.
        let last = |writer: &WriterId, places: &[u64]| {
            let head = heads.get(writer).copied().unwrap_or_default();
            head.max(places.last().copied().unwrap_or_default())
        };
        if listing
            .segments
            .iter()
            .any(|(writer, places)| gap(places).is_some() || !places.contains(&last(writer, places)))
        {
            let again = remote.listing().await?;
            for (writer, places) in &mut listing.segments {
                let last = last(writer, places);
                let whole = again.segments.get(writer).into_iter().flatten();
                *places = whole.copied().filter(|place| *place <= last).collect();
            }
            listing.segments.retain(|_, places| !places.is_empty());
        }
        if listing.segments.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("{} holds no state's segments", remote.name()))
                .hint("name the repository that the state syncs to, as `vyr state show` says it"));
        }
        let mut lines = BTreeMap::new();
        for (writer, places) in listing.segments {
            let segments = chain(remote, &writer, &places, heads.get(&writer).copied()).await?;
            lines.insert(writer.clone(), Line { writer, segments, follows: None });
        }
        let mut history = Self { lines, lost: Vec::new(), forks: Vec::new() };
        history.connect(remote, &listing.bases).await?;
        history.find_forks();
        Ok(history)
    }

    /// Finds what each chain's first segment follows.
    async fn connect(&mut self, remote: &Remote, bases: &[WriterId]) -> Result<()> {
        let mut at: HashMap<Digest, (WriterId, String)> = HashMap::new();
        for line in self.lines.values() {
            for found in &line.segments {
                at.insert(found.digest.clone(), (line.writer.clone(), found.segment.lineage.clone()));
            }
        }
        for line in self.lines.values_mut() {
            let Some(first) = line.segments.first().map(|found| &found.segment) else { continue };
            let Some(previous) = &first.previous else {
                if first.seq == 1 {
                    continue;
                }
                return Err(broken(format!("segment {} of {} follows none", first.seq, line.writer)));
            };
            if let Some((writer, lineage)) = at.get(previous).filter(|(writer, _)| *writer != line.writer) {
                if *lineage != first.lineage {
                    return Err(broken(format!("the chain of {} goes on from another state's", line.writer)));
                }
                line.follows = Some(writer.clone());
                continue;
            }
            let said = if bases.contains(&line.writer) { remote.base(&line.writer).await? } else { None };
            match said {
                Some((base, digest))
                    if base.first == first.seq
                        && base.previous.as_ref() == Some(previous)
                        && base.lineage == first.lineage =>
                {
                    self.lost.push(Lost {
                        writer: line.writer.clone(),
                        from: base.from,
                        to: base.first - 1,
                        said_by: digest.to_string(),
                    });
                }
                _ => {
                    return Err(broken(format!(
                        "segment {} of {} follows {previous}, which is not there, and nobody says that it was lost",
                        first.seq, line.writer
                    )));
                }
            }
        }
        Ok(())
    }

    fn find_forks(&mut self) {
        let mut next: BTreeMap<(u64, Option<String>), Vec<WriterId>> = BTreeMap::new();
        for line in self.lines.values() {
            for found in &line.segments {
                let previous = found.segment.previous.as_ref().map(ToString::to_string);
                next.entry((found.segment.seq - 1, previous)).or_default().push(line.writer.clone());
            }
        }
        let forks = next.into_iter().filter(|(_, writers)| writers.len() > 1);
        self.forks = forks.map(|((after, _), writers)| ForkAt { after, writers }).collect();
    }

    /// Cuts a chain to its first segments up to `last`. What went on from what is cut off goes, too.
    pub(super) fn cut(&mut self, writer: &WriterId, last: Option<u64>) {
        if let Some(line) = self.lines.get_mut(writer) {
            line.segments.retain(|found| last.is_some_and(|last| found.segment.seq <= last));
        }
        let there: std::collections::HashSet<Digest> =
            self.lines.values().flat_map(|l| &l.segments).map(|found| found.digest.clone()).collect();
        let orphans: Vec<WriterId> = self
            .lines
            .values()
            .filter(|line| line.follows.is_some() && !line.segments.is_empty())
            .filter(|line| {
                let first = line.segments.first().and_then(|found| found.segment.previous.as_ref());
                first.is_none_or(|previous| !there.contains(previous))
            })
            .map(|line| line.writer.clone())
            .collect();
        orphans.iter().for_each(|orphan| self.cut(orphan, None));
        self.lines.retain(|_, line| !line.segments.is_empty());
        self.find_forks();
    }

    /// The writers whose last segment nobody else's follows.
    pub(super) fn tips(&self) -> Vec<&Line> {
        let followed = |line: &Line| {
            let last = line.last().map(|found| &found.digest);
            self.lines.values().any(|other| {
                other.writer != line.writer
                    && other.segments.first().and_then(|found| found.segment.previous.as_ref()) == last
            })
        };
        self.lines.values().filter(|line| !followed(line)).collect()
    }

    /// All segments up to the end of `line`, oldest first.
    pub(super) fn up_to<'a>(&'a self, line: &'a Line) -> Vec<&'a Found> {
        let mut parts = vec![&line.segments[..]];
        let mut here = line;
        // Each step goes to an earlier place, so this ends.
        while let Some(before) = here.follows.as_ref().and_then(|writer| self.lines.get(writer)) {
            let first = here.segments.first().map_or(0, |found| found.segment.seq);
            let many = before.segments.iter().take_while(|found| found.segment.seq < first).count();
            parts.push(before.segments.get(..many).unwrap_or_default());
            here = before;
        }
        parts.into_iter().rev().flatten().collect()
    }
}

/// The first places that are missing between others.
fn gap(places: &[u64]) -> Option<(u64, u64)> {
    places.windows(2).find_map(|pair| match pair {
        [before, after] if before + 1 != *after => Some((before + 1, after - 1)),
        _ => None,
    })
}

/// One writer's segments, each following the one before.
async fn chain(remote: &Remote, writer: &WriterId, places: &[u64], head: Option<u64>) -> Result<Vec<Found>> {
    if let Some((from, to)) = gap(places) {
        return Err(broken(format!("of {writer}, segments {from} to {to} are missing")));
    }
    let segments: Vec<Found> = stream::iter(places.iter().copied())
        .map(|seq| async move {
            let tag = SyncTag::Segment(writer.clone(), seq);
            remote.segment(&tag).await?.ok_or_else(|| broken(format!("{tag} was listed and is not there")))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for pair in segments.windows(2) {
        let [before, after] = pair else { continue };
        if after.segment.previous.as_ref() != Some(&before.digest) {
            return Err(broken(format!(
                "segment {} of {writer} doesn't follow segment {} as it is there",
                after.segment.seq, before.segment.seq
            )));
        }
        if after.segment.lineage != before.segment.lineage {
            return Err(broken(format!("segment {} of {writer} is another state's", after.segment.seq)));
        }
    }
    let last = segments.last().map_or(0, |found| found.segment.seq);
    if let Some(head) = head.filter(|head| *head > last) {
        return Err(broken(format!("of {writer}, segments {} to {head} are missing", last + 1)));
    }
    Ok(segments)
}
