//! Owns the blobs of the store: each held against its digest, and fetched again where it isn't what that says.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use super::super::{Vyr, blocking, own};
use super::{Fate, Outcome, Report, Wish};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, OWN_HOST, Reference, parse_reference};
use crate::registry::ThreadedSink;
use crate::sqlite;
use crate::store::{Expected, Layout, Lease, Referred, Store, StoreError};

/// What is wrong with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// It isn't there.
    Missing,
    /// It isn't what its digest says, or can't be read.
    Damaged,
}

/// One blob that is damaged or missing.
#[derive(Debug, Clone, Serialize)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// What is wrong.
    pub wrong: Wrong,
    /// That in words.
    pub found: String,
    /// The artifacts that it belongs to: names, else digests.
    pub of: Vec<String>,
    /// The repository that it was fetched from again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

struct Finding {
    digest: Digest,
    expected: Option<Expected>,
    wrong: Wrong,
    found: String,
}

pub(super) async fn all(vyr: &Vyr, wish: Wish, thorough: bool, report: &mut Report) -> Result<()> {
    let layout = vyr.layout().clone();
    if !layout.root().is_dir() {
        return Ok(());
    }
    // With a database that is damaged, only what lies there can be looked at: to open it would change it.
    let is_sound = report.databases.iter().all(|d| d.name != "vyr.sqlite" || d.is_sound());
    let store = if is_sound { vyr.store().await.ok() } else { None };
    // What is listed stays while it is looked at. In a folder that can't be written nothing is collected.
    let held = layout.clone();
    let _nothing_is_collected = blocking(move || Ok(held.hold_collection().ok())).await?;
    let mut mender = match (wish, store) {
        (Wish::Repair, Some(store)) if !store.is_read_only() => {
            Some(Mender { vyr, store, lease: store.lease()?, silent: HashMap::new(), aside: None })
        }
        _ => None,
    };
    let mut seen = HashSet::new();
    loop {
        let expected = match store {
            Some(store) => store.expected().await?,
            None => Vec::new(),
        };
        let mut findings = look(vyr, &layout, expected, &mut seen, thorough, report).await?;
        // A manifest says what else there has to be.
        findings.sort_by_key(|f| f.expected.as_ref().is_none_or(|e| e.manifest.is_none()));
        let again = findings.iter().any(|f| f.expected.as_ref().is_some_and(|e| e.manifest.is_some()));
        for finding in findings {
            let referred = match (store, &finding.expected) {
                (Some(store), Some(_)) => store.referred(&finding.digest).await?,
                _ => Referred::default(),
            };
            let mut blob = blob(&finding, &referred);
            match (&mut mender, &finding.expected) {
                (_, None) if store.is_some() => {
                    blob.fate.outcome = Outcome::Unused;
                    blob.fate.next = Some("`vyr gc` removes it".into());
                }
                (Some(mender), Some(expected)) => mender.mend(&finding, expected, &referred, &mut blob).await?,
                _ if wish == Wish::DryRun => {
                    blob.fate.outcome = Outcome::WouldRepair;
                    blob.fate.next =
                        sources(vyr, &referred).first().map(|from| format!("it would be fetched from {from}"));
                }
                _ if wish == Wish::Repair => {
                    blob.fate.outcome = Outcome::Left;
                    blob.fate.why = Some("the store can't be opened for it, or not be written".into());
                }
                _ => {}
            }
            report.content.wrong.push(blob);
        }
        if !again || mender.is_none() {
            return Ok(());
        }
    }
}

/// Holds what wasn't seen yet against its digest.
async fn look(
    vyr: &Vyr,
    layout: &Layout,
    expected: Vec<Expected>,
    seen: &mut HashSet<Digest>,
    thorough: bool,
    report: &mut Report,
) -> Result<Vec<Finding>> {
    let listing = layout.clone();
    let there = blocking(move || Ok(listing.blobs()?)).await?;
    let mut items: Vec<(Digest, Option<Expected>)> = expected
        .into_iter()
        .map(|e| (e.digest.clone(), Some(e)))
        .filter(|(digest, _)| !seen.contains(digest))
        .collect();
    seen.extend(items.iter().map(|(digest, _)| digest.clone()));
    items.extend(
        there.iter().filter(|(digest, _)| seen.insert(digest.clone())).map(|(digest, _)| (digest.clone(), None)),
    );
    let sizes: HashMap<Digest, u64> = there.into_iter().collect();
    let total = items.iter().filter_map(|(digest, _)| sizes.get(digest)).sum();
    let progress = vyr.reporter().begin("check the store", if thorough { total } else { 0 });
    let layout = layout.clone();
    let (findings, checked, bytes) = blocking(move || {
        let (mut findings, mut checked, mut bytes) = (Vec::new(), 0_u64, 0_u64);
        for (digest, expected) in items {
            checked += 1;
            if let Some((wrong, found)) = wrong_with(&layout, &digest, expected.as_ref(), thorough) {
                findings.push(Finding { digest: digest.clone(), expected, wrong, found });
            }
            bytes += sizes.get(&digest).copied().unwrap_or(0);
            progress.at(bytes);
        }
        Ok((findings, checked, bytes))
    })
    .await?;
    report.content.checked += checked;
    report.content.bytes += bytes;
    Ok(findings)
}

fn wrong_with(
    layout: &Layout,
    digest: &Digest,
    expected: Option<&Expected>,
    thorough: bool,
) -> Option<(Wrong, String)> {
    let missing = || expected.map(|_| (Wrong::Missing, "it is missing".to_owned()));
    match (layout.blob_size(digest), expected) {
        (Ok(None), _) => return missing(),
        (Ok(Some(size)), Some(expected)) if size != expected.size => {
            return Some((Wrong::Damaged, format!("it has {size} bytes, not {}", expected.size)));
        }
        (Err(e), _) => return Some((Wrong::Damaged, e.to_string())),
        _ => {}
    }
    if !thorough {
        return None;
    }
    match layout.verify_blob(digest) {
        Ok(_) => None,
        Err(StoreError::NoBlob(_)) => missing(),
        Err(StoreError::Mismatch { found, .. }) => Some((Wrong::Damaged, format!("its content is {found}"))),
        Err(e) => Some((Wrong::Damaged, e.to_string())),
    }
}

fn blob(finding: &Finding, referred: &Referred) -> Blob {
    let of = if referred.names.is_empty() {
        referred.roots.iter().map(ToString::to_string).collect()
    } else {
        referred.names.clone()
    };
    Blob {
        digest: finding.digest.to_string(),
        wrong: finding.wrong,
        found: finding.found.clone(),
        of,
        from: None,
        fate: Fate::default(),
    }
}

/// The repositories that it may be had from: those that this machine got it from itself come first.
fn sources(vyr: &Vyr, referred: &Referred) -> Vec<String> {
    let home = &vyr.config().home;
    let named = referred.names.iter().filter_map(|name| Some(name.rsplit_once(':')?.0.to_owned()));
    let mut known = BTreeSet::new();
    referred
        .origins
        .iter()
        .map(|origin| origin.repository.clone())
        .chain(named)
        .filter(|repository| known.insert(repository.clone()))
        // The node's own registry has what is damaged here.
        .filter(|repository| {
            parse_reference(&format!("{repository}:x")).is_ok_and(|r| !own::is_own(home, &r) && !own::was_own(home, &r))
        })
        .collect()
}

/// What to do about what couldn't be repaired.
fn next(referred: &Referred, sources: &[String]) -> String {
    let own = format!("{OWN_HOST}/");
    let named = referred.names.iter().find(|name| !name.starts_with(&own) && crate::store::is_no_signature(name));
    let bring = match (named, sources.first(), referred.roots.first()) {
        (Some(name), _, _) => format!("`vyr pull {name}` when its registry can be reached"),
        (None, Some(repository), Some(root)) => {
            format!("`vyr pull {repository}@{root}` when its registry can be reached")
        }
        _ => "push it to this node again".to_owned(),
    };
    format!("{bring}; or copy it from `store/` of a `vyr backup`, or `vyr import` it")
}

struct Mender<'a> {
    vyr: &'a Vyr,
    store: &'a Store,
    lease: Lease,
    /// Registries that don't answer, and what was said of that.
    silent: HashMap<String, String>,
    aside: Option<PathBuf>,
}

impl Mender<'_> {
    async fn mend(
        &mut self,
        finding: &Finding,
        expected: &Expected,
        referred: &Referred,
        blob: &mut Blob,
    ) -> Result<()> {
        let sources = sources(self.vyr, referred);
        let mut why = "no repository is known to have it".to_owned();
        for repository in &sources {
            let Ok(reference) = parse_reference(&format!("{repository}@{}", finding.digest)) else { continue };
            if let Some(said) = self.silent.get(reference.registry()) {
                why.clone_from(said);
                continue;
            }
            match Box::pin(self.fetch(&reference, expected)).await {
                Ok(()) => {
                    if expected.manifest.is_some() {
                        self.store.relist(&finding.digest).await?;
                    }
                    blob.fate.outcome = Outcome::Repaired;
                    blob.from = Some(repository.clone());
                    return Ok(());
                }
                // The disk is this machine's: the next one has no other.
                Err(e) if matches!(e.kind(), ErrorKind::Storage | ErrorKind::Exhausted) => return Err(e),
                Err(e) => {
                    why = format!("{repository}: {}", e.why());
                    if e.kind() == ErrorKind::Unavailable {
                        self.silent.insert(reference.registry().to_owned(), why.clone());
                    }
                }
            }
        }
        blob.fate.outcome = Outcome::Left;
        blob.fate.why = Some(why);
        blob.fate.next = Some(next(referred, &sources));
        // Out of the way of whoever brings it again, by a pull or a push: what is there isn't written anew.
        let folder = self.aside()?;
        let (layout, digest) = (self.store.layout().clone(), finding.digest.clone());
        blob.fate.aside = blocking(move || Ok(layout.put_aside(&digest, &folder)?)).await?;
        Ok(())
    }

    fn aside(&mut self) -> Result<PathBuf> {
        if let Some(folder) = &self.aside {
            return Ok(folder.clone());
        }
        let folder = sqlite::aside(self.vyr.config().home.root(), SystemTime::now());
        sqlite::make_private(&folder)?;
        self.aside = Some(folder.clone());
        Ok(folder)
    }

    /// Fetches it, and puts it in its place once its digest is proven.
    async fn fetch(&self, reference: &Reference, expected: &Expected) -> Result<()> {
        let client = self.vyr.client(reference)?;
        let (layout, lease) = (self.store.layout().clone(), self.lease.clone());
        let (digest, size) = (expected.digest.clone(), expected.size);
        if expected.manifest.is_some() {
            let fetched = client.manifest(reference).await?;
            return blocking(move || {
                let mut writer = layout.writer(Some(&digest), None)?;
                writer.add(&fetched.bytes)?;
                writer.commit_anew(&lease)?;
                Ok(())
            })
            .await;
        }
        let wanted = digest.clone();
        let writer = blocking(move || Ok(layout.resume_writer(&wanted, size)?)).await?;
        let position = writer.position();
        let progress =
            self.vyr.reporter().begin(&format!("fetch {}", digest.digest().get(..12).unwrap_or_default()), size);
        let mut sink = ThreadedSink::new(writer, position);
        let moved = client.blob(reference, &digest, size, &mut sink, &*progress).await;
        let finished = sink.finish().await;
        moved?;
        let writer = finished.map_err(|e| Error::from(StoreError::from_write(e, self.vyr.layout().home())))?;
        blocking(move || {
            writer.commit_anew(&lease)?;
            Ok(())
        })
        .await
    }
}
