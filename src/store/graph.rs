//! Owns the graph that a collection decides on: which blobs are there, and what leads to what. In memory, no I/O.

use std::collections::{HashMap, HashSet};

use crate::oci::Digest;

/// A node's number.
pub(super) type Id = usize;

/// A listed manifest.
#[derive(Debug, Default, Clone)]
pub(super) struct Listed {
    /// Unix milliseconds.
    pub(super) last_used: i64,
    pub(super) is_index: bool,
    /// It has a name that isn't a signature's.
    pub(super) named: bool,
    /// It has a subject or a signature's name: it stays as long as what it's about, and no name of its own.
    pub(super) subordinate: bool,
    pub(super) has_parent: bool,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Node {
    pub(super) digest: Option<Digest>,
    /// Bytes on disk, when it's there.
    pub(super) bytes: Option<u64>,
    pub(super) listed: Option<Listed>,
    /// Children, blobs, and what is about it.
    pub(super) leads_to: Vec<Id>,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    ids: HashMap<String, Id>,
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    pub(super) fn id(&mut self, digest: &str) -> Id {
        if let Some(id) = self.ids.get(digest) {
            return *id;
        }
        let id = self.nodes.len();
        self.ids.insert(digest.to_owned(), id);
        self.nodes.push(Node { digest: digest.parse().ok(), ..Node::default() });
        id
    }

    pub(super) fn node(&mut self, digest: &str) -> &mut Node {
        let id = self.id(digest);
        // `id` has just made it, if it wasn't there.
        &mut self.nodes[id]
    }

    pub(super) fn link(&mut self, from: &str, to: &str) {
        let to = self.id(to);
        self.node(from).leads_to.push(to);
    }

    pub(super) fn listed(&self, id: Id) -> Option<&Listed> {
        self.nodes.get(id)?.listed.as_ref()
    }

    /// Marks all that `roots` lead to.
    pub(super) fn mark(&self, marks: &mut [bool], roots: impl IntoIterator<Item = Id>) {
        let mut stack: Vec<Id> = roots.into_iter().collect();
        while let Some(id) = stack.pop() {
            if let (Some(mark), Some(node)) = (marks.get_mut(id), self.nodes.get(id))
                && !std::mem::replace(mark, true)
            {
                stack.extend(&node.leads_to);
            }
        }
    }

    /// All that `root` leads to, itself included.
    pub(super) fn closure(&self, root: Id) -> Vec<Id> {
        let mut seen = HashSet::from([root]);
        let mut order = vec![root];
        let mut next = 0;
        while let Some(node) = order.get(next).and_then(|id| self.nodes.get(*id)) {
            for to in &node.leads_to {
                if seen.insert(*to) {
                    order.push(*to);
                }
            }
            next += 1;
        }
        order
    }

    /// The unlisted nodes on disk that listed indexes lead to, each with all that do: what leads there by more than one step, too.
    pub(super) fn hollow(&self) -> HashMap<Id, Vec<Id>> {
        let (mut above, mut hollow) = (HashMap::<Id, Vec<Id>>::new(), HashMap::new());
        for (id, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.listed.as_ref().is_some_and(|l| l.is_index)) {
            for to in &node.leads_to {
                above.entry(*to).or_default().push(id);
                if self.listed(*to).is_none() && self.nodes.get(*to).is_some_and(|n| n.bytes.is_some()) {
                    hollow.insert(*to, Vec::new());
                }
            }
        }
        for (id, found) in &mut hollow {
            let mut waiting = vec![*id];
            while let Some(next) = waiting.pop() {
                for index in above.get(&next).into_iter().flatten() {
                    if !found.contains(index) {
                        found.push(*index);
                        waiting.push(*index);
                    }
                }
            }
        }
        hollow
    }
}

/// `ids`, each after those of them that lead to it. Where some lead to each other, in any order.
pub(super) fn after_what_leads_there(ids: impl Iterator<Item = Id>, leads_to: &HashMap<Id, Vec<Id>>) -> Vec<Id> {
    let (mut ended, mut seen) = (Vec::new(), HashSet::new());
    for root in ids {
        let mut stack = vec![(root, false)];
        while let Some((id, is_left)) = stack.pop() {
            if is_left {
                ended.push(id);
            } else if let Some(to) = leads_to.get(&id).filter(|_| seen.insert(id)) {
                stack.push((id, true));
                stack.extend(to.iter().map(|id| (*id, false)));
            }
        }
    }
    ended.reverse();
    ended
}
