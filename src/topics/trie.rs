//! A trie of filter levels, for the filters that have no place among the shapes.

use hashbrown::HashTable;
use slab::Slab;

use super::index::FilterId;
use super::name::is_reserved;
use super::shape::HashSeed;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// Filters by their levels. A match visits the nodes whose levels match the topic so far: at most
/// all nodes there are, and at most 2 to the power of the topic's levels.
#[derive(Debug)]
pub(super) struct FilterTrie {
    seed: HashSeed,
    /// The first is the root; it is made with the first filter.
    nodes: Slab<Node>,
    /// Literal children by parent and level.
    edges: HashTable<u32>,
    /// Nodes still to visit during a match, with where in the topic their children's level starts.
    pending: Vec<(u32, Option<usize>)>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    /// The number of literal children; they are found through `edges`.
    literals: u32,
    /// The `+` child.
    plus: u32,
    /// The filter that ends here.
    here: u32,
    /// The filter that ends here with `#` as one more level.
    below: u32,
    /// The level, empty for the root.
    level: Box<[u8]>,
}

impl FilterTrie {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self { seed, nodes: Slab::new(), edges: HashTable::new(), pending: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a valid filter that is not there yet.
    pub(super) fn insert(&mut self, filter: &[u8], id: FilterId) {
        if self.nodes.is_empty() {
            self.nodes.insert(Node::new(NONE, &[]));
        }
        let mut at = ROOT;
        for level in filter.split(|&byte| byte == b'/') {
            if level == b"#" {
                return self.set(at, |node| node.below = id.0);
            }
            at = self.child(at, level).unwrap_or_else(|| self.add_child(at, level));
        }
        self.set(at, |node| node.here = id.0);
    }

    /// Takes a filter out, and the nodes that no other filter needs.
    pub(super) fn remove(&mut self, filter: &[u8]) {
        let mut at = ROOT;
        let mut multi_level = false;
        for level in filter.split(|&byte| byte == b'/') {
            if level == b"#" {
                multi_level = true;
                break;
            }
            let Some(child) = self.child(at, level) else { return };
            at = child;
        }
        self.set(at, |node| *(if multi_level { &mut node.below } else { &mut node.here }) = NONE);
        self.prune(at);
    }

    /// Appends the filters that match the topic; says how many nodes were visited.
    pub(super) fn matching(&mut self, topic: &str, out: &mut Vec<FilterId>) -> usize {
        let topic = topic.as_bytes();
        let reserved = is_reserved(topic);
        self.pending.clear();
        self.pending.push((ROOT, Some(0)));
        let mut visited = 0;
        while let Some((at, start)) = self.pending.pop() {
            visited += 1;
            let Some(node) = self.nodes.get(at as usize) else { continue };
            let wildcards = !(reserved && at == ROOT);
            if node.below != NONE && wildcards {
                out.push(FilterId(node.below));
            }
            let Some(rest) = start.and_then(|start| topic.get(start..)) else {
                if node.here != NONE {
                    out.push(FilterId(node.here));
                }
                continue;
            };
            let (level, next) = match rest.iter().position(|&byte| byte == b'/') {
                Some(end) => (rest.get(..end), start.map(|start| start + end + 1)),
                None => (Some(rest), None),
            };
            if node.plus != NONE && wildcards {
                self.pending.push((node.plus, next));
            }
            if node.literals > 0
                && let Some(child) = self.literal(at, level.unwrap_or_default())
            {
                self.pending.push((child, next));
            }
        }
        visited
    }

    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        if level == b"+" {
            return self.nodes.get(parent as usize).map(|node| node.plus).filter(|&at| at != NONE);
        }
        self.literal(parent, level)
    }

    fn literal(&self, parent: u32, level: &[u8]) -> Option<u32> {
        self.edges
            .find(edge_hash(&self.seed, parent, level), |&at| {
                self.nodes
                    .get(at as usize)
                    .is_some_and(|node| node.parent == parent && *node.level == *level)
            })
            .copied()
    }

    fn add_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let at = self.nodes.insert(Node::new(parent, level)) as u32;
        if level == b"+" {
            self.set(parent, |node| node.plus = at);
        } else {
            self.set(parent, |node| node.literals += 1);
            let hash = edge_hash(&self.seed, parent, level);
            let (seed, nodes) = (&self.seed, &self.nodes);
            self.edges.insert_unique(hash, at, |&at| node_hash(seed, nodes, at));
        }
        at
    }

    /// Removes a node and its ancestors as far as nothing depends on them.
    fn prune(&mut self, mut at: u32) {
        while self.nodes.get(at as usize).is_some_and(Node::is_unused) {
            let hash = node_hash(&self.seed, &self.nodes, at);
            let node = self.nodes.remove(at as usize);
            if *node.level == *b"+" {
                self.set(node.parent, |parent| parent.plus = NONE);
            } else if node.parent != NONE {
                if let Ok(edge) = self.edges.find_entry(hash, |&other| other == at) {
                    edge.remove();
                }
                self.set(node.parent, |parent| parent.literals -= 1);
            }
            at = node.parent;
        }
        if self.nodes.is_empty() {
            *self = Self::new(self.seed.clone());
        }
    }

    fn set(&mut self, at: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(at as usize) {
            change(node);
        }
    }
}

impl Node {
    fn new(parent: u32, level: &[u8]) -> Self {
        let level = level.into();
        Self { parent, literals: 0, plus: NONE, here: NONE, below: NONE, level }
    }

    fn is_unused(&self) -> bool {
        self.literals == 0 && self.plus == NONE && self.here == NONE && self.below == NONE
    }
}

fn edge_hash(seed: &HashSeed, parent: u32, level: &[u8]) -> u64 {
    seed.hash_bytes(level) ^ u64::from(parent).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn node_hash(seed: &HashSeed, nodes: &Slab<Node>, at: u32) -> u64 {
    nodes.get(at as usize).map_or(0, |node| edge_hash(seed, node.parent, &node.level))
}
