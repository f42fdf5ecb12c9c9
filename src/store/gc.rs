//! Owns collection: what nothing needs goes, and with a budget also what was used longest ago. Never what is in use.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use super::db::Store;
use super::graph::{self, Graph, Id, Listed};
use super::layout::Layout;
use super::manifest::Parsed;
use super::rows::millis;
use super::{Result, StoreError, disk, lease, rebuild};
use crate::oci::{Digest, MAX_MANIFEST_BYTES, media};

/// How long a partial pull waits to be gone on with.
const PARTIAL_LIVES: Duration = Duration::from_secs(24 * 3600);

/// What a collection may do.
#[derive(Clone, Copy)]
pub struct GcOptions<'a> {
    /// Only say what would go.
    pub dry_run: bool,
    /// Remove artifacts, the one used longest ago first, until the blobs have no more bytes than this.
    pub budget_bytes: Option<u64>,
    /// The time that ages are counted from.
    pub now: SystemTime,
    /// When an artifact was last used, as far as others know; the later of this and the store's own time counts.
    pub last_used_hint: &'a (dyn Fn(&Digest) -> Option<SystemTime> + Sync),
}

impl GcOptions<'_> {
    /// Removes what nothing needs, at `now`.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self { dry_run: false, budget_bytes: None, now, last_used_hint: &|_| None }
    }
}

impl std::fmt::Debug for GcOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GcOptions")
            .field("dry_run", &self.dry_run)
            .field("budget_bytes", &self.budget_bytes)
            .finish_non_exhaustive()
    }
}

/// What kind of thing was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedKind {
    /// A listed manifest, for the budget.
    Artifact,
    /// A listed manifest about one that is gone: a signature or another referrer.
    Orphan,
    /// A blob that nothing reached.
    Blob,
}

impl RemovedKind {
    /// A stable word for machine output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Orphan => "orphan",
            Self::Blob => "blob",
        }
    }
}

/// One thing removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// What it was.
    pub digest: Digest,
    /// Its bytes on disk.
    pub bytes: u64,
    /// Its kind.
    pub kind: RemovedKind,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// What went.
    pub removed: Vec<Removed>,
    /// What would have gone, but is in use by a run or a writer.
    pub in_use: Vec<Digest>,
    /// Temporary files of dead writers and stale partial pulls that went.
    pub temporary_files: u64,
    /// The bytes that all this freed.
    pub freed_bytes: u64,
    /// How many blobs stay.
    pub kept_blobs: u64,
    /// The bytes of the blobs that stay.
    pub kept_bytes: u64,
}

struct Plan {
    graph: Graph,
    /// What stays.
    marks: Vec<bool>,
    /// Listed manifests to take out of the listing.
    unlist: Vec<(Id, RemovedKind)>,
    /// What stays, and what it names doesn't: unlisted manifests, each with the listed indexes that lead to it.
    hollow: HashMap<Id, Vec<Id>>,
    report: GcReport,
}

impl Store {
    /// Removes what nothing needs: blobs that no listed manifest reaches, referrers whose subject is gone, temporary
    /// files of dead writers; with a budget also whole artifacts. What a [`Pin`](super::Pin) or a live
    /// [`Lease`](super::Lease) holds stays, with all it reaches.
    ///
    /// # Errors
    /// The disk's own, or that the store can't be written.
    #[tracing::instrument(skip_all, fields(dry_run = options.dry_run, budget = options.budget_bytes))]
    pub async fn gc(&self, options: GcOptions<'_>) -> Result<GcReport> {
        self.gc_with(options, || ()).await
    }

    /// The same, with something that happens when it is decided what goes and nothing is gone yet.
    pub(super) async fn gc_with(&self, options: GcOptions<'_>, decided: impl FnOnce() + Send) -> Result<GcReport> {
        self.writable()?;
        let layout = self.layout().clone();
        // Writers wait from here on; they hold the gate for moments only, so this doesn't wait long either.
        let _gate = disk::blocking(move || layout.gate_exclusive()).await?;
        let mut graph = self.load_graph().await?;
        let fresh = self.fresh_blobs(options.now).await?;
        if options.budget_bytes.is_some() {
            for node in &mut graph.nodes {
                if let (Some(digest), Some(listed)) = (&node.digest, &mut node.listed) {
                    let hint = (options.last_used_hint)(digest).map_or(0, millis);
                    listed.last_used = listed.last_used.max(hint);
                }
            }
        }
        let layout = self.layout().clone();
        let (dry_run, budget, now) = (options.dry_run, options.budget_bytes, options.now);
        let mut plan = disk::blocking(move || make_plan(&layout, graph, &fresh, dry_run, budget)).await?;
        if !dry_run && !plan.unlist.is_empty() {
            // The listing goes first: killed in between, what is listed is there, and the next collection ends this one.
            let mut tx = self.begin().await?;
            for (id, _) in &plan.unlist {
                let Some(digest) = plan.graph.nodes.get(*id).and_then(|n| n.digest.as_ref()) else { continue };
                sqlx::query("DELETE FROM manifests WHERE digest = ?1")
                    .bind(digest.as_ref())
                    .execute(&mut *tx)
                    .await
                    .map_err(|e| self.failed(e))?;
            }
            self.finish(tx).await?;
        }
        decided();
        let layout = self.layout().clone();
        let report = disk::blocking(move || {
            sweep(&layout, &mut plan, dry_run)?;
            sweep_ingest(&layout, &mut plan.report, dry_run, now)?;
            Ok(plan.report)
        })
        .await?;
        if !dry_run {
            self.forget_blobs(report.removed.iter().map(|r| &r.digest)).await?;
        }
        Ok(report)
    }

    async fn load_graph(&self) -> Result<Graph> {
        type Manifest = (String, String, i64, Option<String>);
        let failed = |e| self.failed(e);
        let mut tx = self.pool().begin().await.map_err(failed)?;
        let manifests: Vec<Manifest> = sqlx::query_as("SELECT digest, media_type, last_used, subject FROM manifests")
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
        let edges: Vec<(String, String, bool)> = sqlx::query_as("SELECT parent, child, kind = 'manifest' FROM edges")
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
        let tags: Vec<(String, Option<String>)> =
            sqlx::query_as("SELECT digest, signs FROM tags").fetch_all(&mut *tx).await.map_err(failed)?;
        let mut graph = Graph::default();
        for (digest, media_type, last_used, subject) in manifests {
            let is_index = media_type == media::INDEX || media_type == media::DOCKER_LIST;
            let subordinate = subject.is_some();
            graph.node(&digest).listed = Some(Listed { last_used, is_index, subordinate, ..Listed::default() });
            if let Some(subject) = subject {
                graph.link(&subject, &digest);
            }
        }
        for (parent, child, is_manifest) in edges {
            graph.link(&parent, &child);
            if let Some(listed) = graph.node(&child).listed.as_mut() {
                listed.has_parent |= is_manifest;
            }
        }
        for (digest, signs) in tags {
            if let Some(listed) = graph.node(&digest).listed.as_mut() {
                listed.named |= signs.is_none();
                listed.subordinate |= signs.is_some();
            }
            if let Some(signs) = signs {
                graph.link(&signs, &digest);
            }
        }
        for digest in self.early_referrers(&mut tx).await? {
            if let Some(listed) = graph.node(&digest).listed.as_mut() {
                listed.named = true;
            }
        }
        Ok(graph)
    }
}

/// Whether another process uses the blob. `None` when the file is gone.
fn probe(layout: &Layout, digest: &Digest) -> Result<Option<(File, bool)>> {
    let path = layout.blob_path(digest);
    match File::open(&path) {
        Ok(file) => {
            let free = disk::try_lock(&file, &path)?;
            Ok(Some((file, free)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("open", &path)(e)),
    }
}

fn in_use(layout: &Layout, digest: &Digest) -> Result<bool> {
    Ok(probe(layout, digest)?.is_some_and(|(_, free)| !free))
}

fn make_plan(layout: &Layout, mut graph: Graph, fresh: &[String], dry_run: bool, budget: Option<u64>) -> Result<Plan> {
    for (digest, bytes) in rebuild::blobs(layout)? {
        graph.node(digest.as_ref()).bytes = Some(bytes);
    }
    let leased: Vec<Id> = lease::read_all(layout, dry_run)?.iter().chain(fresh).map(|d| graph.id(d)).collect();
    let mut report = GcReport::default();
    let mut held = vec![false; graph.nodes.len()];
    graph.mark(&mut held, leased.iter().copied());

    // A listed manifest stands on its own unless it's about another; a signature of one that is gone is reached by none.
    let alone = |l: &Listed| l.named || !l.subordinate;
    let roots = |graph: &Graph| -> Vec<Id> {
        (0..graph.nodes.len()).filter(|id| graph.listed(*id).is_some_and(alone)).collect()
    };
    let mut marks = held.clone();
    graph.mark(&mut marks, roots(&graph));
    // An orphan in use stays, with what it reaches.
    let mut unlist = Vec::new();
    for id in 0..graph.nodes.len() {
        let Some(digest) = graph.nodes.get(id).filter(|n| n.listed.is_some()).and_then(|n| n.digest.clone()) else {
            continue;
        };
        if marks.get(id) == Some(&false) {
            if in_use(layout, &digest)? {
                graph.mark(&mut marks, [id]);
                graph.mark(&mut held, [id]);
                report.in_use.push(digest);
            } else {
                unlist.push((id, RemovedKind::Orphan));
            }
        }
    }
    unlist.retain(|(id, _)| marks.get(*id) == Some(&false));
    if let Some(budget) = budget {
        fit_budget(layout, &graph, &held, &mut marks, budget, &mut unlist, &mut report)?;
    }
    // What is on disk, unlisted, but pinned: an artifact that was taken out of the listing while it runs. One that an index
    // still lists is reached, and what it names is not: that is held by a pin of the index, too.
    let mut hollow = graph.hollow();
    for id in 0..graph.nodes.len() {
        let reached = marks.get(id) != Some(&false);
        if graph.listed(id).is_some() || (reached && !hollow.contains_key(&id)) {
            continue;
        }
        let Some(digest) = graph.nodes.get(id).filter(|n| n.bytes.is_some()).and_then(|n| n.digest.clone()) else {
            continue;
        };
        let mut used = in_use(layout, &digest)?;
        for above in hollow.get(&id).into_iter().flatten().filter_map(|id| graph.nodes.get(*id)?.digest.as_ref()) {
            used = used || in_use(layout, above)?;
        }
        if used {
            hollow.remove(&id);
            keep_pinned(layout, &mut graph, &mut marks, &digest);
            report.in_use.push(digest);
        }
    }
    hollow.retain(|id, _| marks.get(*id) == Some(&true));
    Ok(Plan { graph, marks, unlist, hollow, report })
}

/// Marks an unlisted manifest in use, and all that its content names.
fn keep_pinned(layout: &Layout, graph: &mut Graph, marks: &mut Vec<bool>, digest: &Digest) {
    let (mut queue, mut looked) = (vec![digest.clone()], HashSet::new());
    while let Some(digest) = queue.pop() {
        let id = graph.id(digest.as_ref());
        marks.resize(graph.nodes.len(), false);
        graph.mark(marks, [id]);
        // That something else leads to it says nothing of what it leads to.
        if !looked.insert(id) || graph.listed(id).is_some() {
            continue;
        }
        // Not a manifest, or damaged: then it names nothing.
        let parsed = layout.read_verified(&digest, MAX_MANIFEST_BYTES).and_then(|b| Parsed::read(&digest, &b, None));
        queue.extend(parsed.into_iter().flat_map(|p| p.edges).map(|e| e.digest));
    }
}

/// Chooses artifacts to go until what stays fits the budget.
fn fit_budget(
    layout: &Layout,
    graph: &Graph,
    held: &[bool],
    marks: &mut [bool],
    budget: u64,
    unlist: &mut Vec<(Id, RemovedKind)>,
    report: &mut GcReport,
) -> Result<()> {
    let bytes = |id: Id| graph.nodes.get(id).and_then(|n| n.bytes).unwrap_or(0);
    let is_marked = |marks: &[bool], id: Id| marks.get(id) == Some(&true);
    let mut total: u64 = (0..graph.nodes.len()).filter(|id| is_marked(marks, *id)).map(bytes).sum();
    if total <= budget {
        return Ok(());
    }
    // A child of an index goes with the index, what is about another with that, unless it has a name of its own.
    let mut artifacts: Vec<(i64, Id)> = (0..graph.nodes.len())
        .filter_map(|id| graph.listed(id).map(|l| (id, l)))
        .filter(|(id, l)| is_marked(marks, *id) && (l.named || !(l.subordinate || l.has_parent)))
        .map(|(id, l)| (l.last_used, id))
        .collect();
    artifacts.sort_unstable();
    let mut needed_by = vec![0_u32; graph.nodes.len()];
    for (_, root) in &artifacts {
        for id in graph.closure(*root) {
            if let Some(n) = needed_by.get_mut(id) {
                *n += 1;
            }
        }
    }
    for (_, root) in artifacts {
        if total <= budget {
            break;
        }
        let closure = graph.closure(root);
        let mut used = closure.iter().any(|id| held.get(*id) == Some(&true) && graph.listed(*id).is_some());
        for id in closure.iter().filter(|id| graph.listed(**id).is_some()) {
            if let (false, Some(digest)) = (used, graph.nodes.get(*id).and_then(|n| n.digest.as_ref())) {
                used = in_use(layout, digest)?;
            }
        }
        if used {
            report.in_use.extend(graph.nodes.get(root).and_then(|n| n.digest.clone()));
            continue;
        }
        for id in closure {
            let Some(n) = needed_by.get_mut(id) else { continue };
            *n -= 1;
            if *n == 0 && held.get(id) != Some(&true) {
                if let Some(mark) = marks.get_mut(id)
                    && std::mem::replace(mark, false)
                {
                    total = total.saturating_sub(bytes(id));
                }
                if graph.listed(id).is_some() {
                    unlist.push((id, RemovedKind::Artifact));
                }
            }
        }
    }
    Ok(())
}

/// Takes what is hollow from those who would pin it, until what it names is gone: what this returns holds it. Where one was
/// pinned since the plan was made, all that it names stays.
fn hold_hollow(layout: &Layout, plan: &mut Plan) -> Result<Vec<File>> {
    let (mut files, mut free) = (Vec::new(), HashMap::new());
    for (child, above) in std::mem::take(&mut plan.hollow) {
        let mut used = false;
        for id in above.into_iter().filter(|id| plan.marks.get(*id) == Some(&true)).chain([child]) {
            let Some(digest) = plan.graph.nodes.get(id).and_then(|n| n.digest.as_ref()) else { continue };
            let free = match free.get(&id) {
                Some(free) => *free,
                None => {
                    let (file, is_free) =
                        probe(layout, digest)?.map_or((None, true), |(file, free)| (Some(file), free));
                    files.extend(file.filter(|_| is_free));
                    free.insert(id, is_free);
                    is_free
                }
            };
            used |= !free;
        }
        let digest = plan.graph.nodes.get(child).and_then(|n| n.digest.clone());
        if let (true, Some(digest)) = (used, digest) {
            keep_pinned(layout, &mut plan.graph, &mut plan.marks, &digest);
            plan.report.in_use.push(digest);
        }
    }
    Ok(files)
}

/// What the blob names, if it is a manifest; nothing, else.
fn named_by(layout: &Layout, digest: &Digest) -> Vec<Digest> {
    // Most are no manifests, and aren't read to learn that.
    let mut first = [0];
    let begins = layout.open_blob(digest).is_ok_and(|mut file| io::Read::read_exact(&mut file, &mut first).is_ok());
    if !begins || !(first == *b"{" || first[0].is_ascii_whitespace()) {
        return Vec::new();
    }
    let parsed = layout.read_verified(digest, MAX_MANIFEST_BYTES).and_then(|b| Parsed::read(digest, &b, None));
    parsed.into_iter().flat_map(|p| p.edges).map(|e| e.digest).collect()
}

/// The blobs that go, each with its bytes, and each after whatever names it.
fn in_order(layout: &Layout, plan: &mut Plan) -> Vec<(Id, Digest, u64)> {
    let mut names: HashMap<Id, Vec<Id>> = HashMap::new();
    let mut going: Vec<(Id, Digest, u64)> = Vec::new();
    for (id, node) in plan.graph.nodes.iter().enumerate() {
        if let (Some(bytes), Some(digest), Some(false)) = (node.bytes, &node.digest, plan.marks.get(id)) {
            going.push((id, digest.clone(), bytes));
        }
    }
    for (id, digest, bytes) in &going {
        let leads_to = match plan.graph.nodes.get(*id).filter(|n| n.listed.is_some()) {
            Some(node) => node.leads_to.clone(),
            None if *bytes <= MAX_MANIFEST_BYTES => {
                named_by(layout, digest).iter().map(|digest| plan.graph.id(digest.as_ref())).collect()
            }
            None => Vec::new(),
        };
        names.insert(*id, leads_to);
    }
    let order = graph::after_what_leads_there(going.iter().map(|g| g.0), &names);
    let place: HashMap<Id, usize> = order.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
    going.sort_by_key(|g| place.get(&g.0).copied());
    going
}

/// Removes the blobs that aren't marked. Manifests go before what they name, so that none can be pinned whose content
/// is half gone; one pinned since the plan was made stays on disk, with all it names.
fn sweep(layout: &Layout, plan: &mut Plan, dry_run: bool) -> Result<()> {
    let kinds: HashMap<Id, RemovedKind> = plan.unlist.iter().copied().collect();
    let _hollow = hold_hollow(layout, plan)?;
    for (id, digest, bytes) in in_order(layout, plan) {
        if plan.marks.get(id) == Some(&true) {
            continue;
        }
        // The lock is held until the file is gone: whoever waits for it finds that out.
        let Some((file, free)) = probe(layout, &digest)? else { continue };
        if !free {
            keep_pinned(layout, &mut plan.graph, &mut plan.marks, &digest);
            plan.report.in_use.push(digest);
            continue;
        }
        if !dry_run {
            disk::unlink(&layout.blob_path(&digest))?;
        }
        drop(file);
        plan.report.freed_bytes += bytes;
        let kind = kinds.get(&id).copied().unwrap_or(RemovedKind::Blob);
        plan.report.removed.push(Removed { digest, bytes, kind });
    }
    for (node, mark) in plan.graph.nodes.iter().zip(&plan.marks) {
        if let (Some(bytes), true) = (node.bytes, mark) {
            plan.report.kept_blobs += 1;
            plan.report.kept_bytes += bytes;
        }
    }
    Ok(())
}

/// Removes temporary files whose writer is dead, and partial pulls that nobody went on with.
fn sweep_ingest(layout: &Layout, report: &mut GcReport, dry_run: bool, now: SystemTime) -> Result<()> {
    let folder = layout.ingest();
    for item in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = item.map_err(StoreError::io("list", folder))?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io("open", &path)(e)),
        };
        let metadata = file.metadata().map_err(StoreError::io("look at", &path))?;
        if !metadata.is_file() || !disk::try_lock(&file, &path)? {
            continue;
        }
        let age = metadata.modified().ok().and_then(|m| now.duration_since(m).ok()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "partial") && age < PARTIAL_LIVES {
            continue;
        }
        if !dry_run {
            disk::unlink(&path)?;
        }
        report.temporary_files += 1;
        report.freed_bytes += metadata.len();
    }
    Ok(())
}
