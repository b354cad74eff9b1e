//! What a disk may hold after the power has gone: everything that was synced, and of the rest anything.
//!
//! The model follows a trace. A *file* has what its last sync has made durable, and the changes since; a *folder*
//! likewise has names that are durable and changes of names since. A sync covers the changes that were complete when
//! it began, once it has returned; `sync_file_range` covers nothing. At a cut an image is made of the durable part
//! and of some of the changes: none, all, the first few with the last one torn at a sector, or any sectors of any.
//!
//! It is harsher than most file systems: a new file needs a sync of its folder to be found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

use crate::trace::{Did, Event};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Which of the changes that no sync covers reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None: the disk wrote nothing that it was not told to.
    Lost,
    /// All: as after the death of the process alone.
    Kept,
    /// The first few, with the last of them torn.
    Torn,
    /// Any sectors of any of them.
    Scattered,
}

impl Fate {
    pub(crate) const ALL: [Self; 4] = [Self::Lost, Self::Kept, Self::Torn, Self::Scattered];
}

type NodeId = usize;

/// Changes of names that the disk makes as one.
type Names = Vec<(String, Option<NodeId>)>;

enum Node {
    File { durable: Vec<u8>, since: Vec<(u64, Change)> },
    Folder { now: BTreeMap<String, NodeId>, durable: BTreeMap<String, NodeId>, since: Vec<(u64, Names)> },
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn on(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    /// The parts that lie in one sector each.
    fn sectors(&self) -> Vec<Self> {
        let Self::Write { offset, bytes } = self else { return vec![self.clone()] };
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let here = offset + at;
            let end = (at + SECTOR - here % SECTOR).min(bytes.len());
            parts.push(Self::Write { offset: here, bytes: bytes[at..end].to_vec() });
            at = end;
        }
        parts
    }
}

/// The disk while the trace goes on.
pub(crate) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    inodes: BTreeMap<u64, NodeId>,
    /// Changes so far.
    turn: u64,
    /// Syncs that have begun: what they cover, if they succeed.
    syncing: BTreeMap<u64, (NodeId, u64)>,
}

impl Disk {
    /// A disk on which the folder `root`, as it is, is durable.
    pub(crate) fn with(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_path_buf(),
            nodes: Vec::new(),
            inodes: BTreeMap::new(),
            turn: 0,
            syncing: BTreeMap::new(),
        };
        disk.read(root);
        disk
    }

    fn read(&mut self, path: &Path) -> NodeId {
        let id = self.nodes.len();
        if path.is_file() {
            let durable = fs::read(path).expect("a file");
            self.nodes.push(Node::File { durable, since: Vec::new() });
            return id;
        }
        self.nodes.push(Self::folder());
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path).expect("a folder") {
            let entry = entry.expect("an entry");
            let child = self.read(&entry.path());
            names.insert(entry.file_name().to_string_lossy().into_owned(), child);
        }
        self.nodes[id] = Node::Folder { now: names.clone(), durable: names, since: Vec::new() };
        id
    }

    fn folder() -> Node {
        Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new(), since: Vec::new() }
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        let inside = path.strip_prefix(&self.root).ok()?;
        inside.components().try_fold(0, |id, part| match (&self.nodes[id], part) {
            (Node::Folder { now, .. }, Component::Normal(name)) => now.get(&*name.to_string_lossy()).copied(),
            _ => None,
        })
    }

    fn node(&self, event: &Event) -> NodeId {
        let found = self.inodes.get(&event.inode).copied().or_else(|| self.find(&event.path));
        found.unwrap_or_else(|| panic!("a change of an unknown file: {}", event.path.display()))
    }

    fn change(&mut self, id: NodeId, change: Change) {
        self.turn += 1;
        match &mut self.nodes[id] {
            Node::File { since, .. } => since.push((self.turn, change)),
            Node::Folder { .. } => panic!("bytes are written to a folder"),
        }
    }

    fn rename(&mut self, folder: &Path, names: Names) {
        self.turn += 1;
        let id = self.find(folder).unwrap_or_else(|| panic!("no folder {}", folder.display()));
        match &mut self.nodes[id] {
            Node::Folder { now, since, .. } => {
                put(now, &names);
                since.push((self.turn, names));
            }
            Node::File { .. } => panic!("a name in a file"),
        }
    }

    fn create(&mut self, event: &Event, node: Node) {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.inodes.insert(event.inode, id);
        if event.path == self.root {
            panic!("the root of a trace must be there before it");
        }
        self.rename(parent(&event.path), vec![(name(&event.path), Some(id))]);
    }

    /// Takes the next event.
    pub(crate) fn follow(&mut self, event: &Event) {
        match &event.did {
            Did::Opened { created: true, .. } => {
                self.create(event, Node::File { durable: Vec::new(), since: Vec::new() });
            }
            Did::Opened { emptied, .. } => {
                let id = self.find(&event.path).expect("what is opened is there");
                self.inodes.insert(event.inode, id);
                if *emptied {
                    self.change(id, Change::Length(0));
                }
            }
            Did::Wrote { offset, bytes } => {
                let change = Change::Write { offset: *offset as usize, bytes: bytes.clone() };
                self.change(self.node(event), change);
            }
            Did::Truncated { length } => self.change(self.node(event), Change::Length(*length as usize)),
            Did::SyncBegins { range_only: true, .. } | Did::Acknowledges { .. } => {}
            Did::SyncBegins { turn, .. } => {
                self.syncing.insert(*turn, (self.node(event), self.turn));
            }
            Did::SyncEnds { turn, succeeded } => {
                if let Some((id, through)) = self.syncing.remove(turn)
                    && *succeeded
                {
                    self.settle(id, through);
                }
            }
            Did::Renamed { to } => {
                assert_eq!(parent(&event.path), parent(to), "no store moves files between folders");
                let id = self.find(&event.path).expect("what is renamed is there");
                self.rename(parent(to), vec![(name(&event.path), None), (name(to), Some(id))]);
            }
            Did::MadeFolder => self.create(event, Self::folder()),
            Did::Unlinked | Did::RemovedFolder => {
                self.inodes.remove(&event.inode);
                self.rename(parent(&event.path), vec![(name(&event.path), None)]);
            }
        }
    }

    fn settle(&mut self, id: NodeId, through: u64) {
        match &mut self.nodes[id] {
            Node::File { durable, since } => {
                let covered = since.partition_point(|(turn, _)| *turn <= through);
                since.drain(..covered).for_each(|(_, change)| change.on(durable));
            }
            Node::Folder { durable, since, .. } => {
                let covered = since.partition_point(|(turn, _)| *turn <= through);
                since.drain(..covered).for_each(|(_, names)| put(durable, &names));
            }
        }
    }

    /// Writes what the disk may hold if the power goes here.
    pub(crate) fn image(&self, to: &Path, fate: Fate, chance: &mut SmallRng) {
        self.write(0, to, fate, chance);
    }

    fn write(&self, id: NodeId, to: &Path, fate: Fate, chance: &mut SmallRng) {
        match &self.nodes[id] {
            Node::File { durable, since } => {
                let changes: Vec<&Change> = since.iter().map(|(_, change)| change).collect();
                fs::write(to, content(durable, &changes, fate, chance)).expect("an image");
            }
            Node::Folder { durable, since, .. } => {
                fs::create_dir_all(to).expect("an image");
                let mut names = durable.clone();
                let kept = chance.random_range(0..=since.len());
                for (n, (_, change)) in since.iter().enumerate() {
                    let reaches = match fate {
                        Fate::Lost => false,
                        Fate::Kept => true,
                        Fate::Torn => n < kept,
                        Fate::Scattered => chance.random_bool(0.5),
                    };
                    if reaches {
                        put(&mut names, change);
                    }
                }
                for (name, child) in names {
                    self.write(child, &to.join(name), fate, chance);
                }
            }
        }
    }
}

fn content(durable: &[u8], changes: &[&Change], fate: Fate, chance: &mut SmallRng) -> Vec<u8> {
    let mut content = durable.to_vec();
    let reached = match fate {
        Fate::Lost => 0,
        Fate::Kept => changes.len(),
        Fate::Torn | Fate::Scattered => chance.random_range(0..=changes.len()),
    };
    // The length is the file system's, and comes in order; what it does not reach is not there.
    let mut length = content.len();
    for change in &changes[..reached] {
        length = match change {
            Change::Write { offset, bytes } => length.max(offset + bytes.len()),
            Change::Length(length) => *length,
        };
    }
    let any_cut = changes.iter().any(|change| matches!(change, Change::Length(_)));
    if fate == Fate::Scattered && !any_cut {
        let sectors = changes.iter().flat_map(|change| change.sectors());
        for sector in sectors {
            if chance.next_u32().is_multiple_of(2) {
                sector.on(&mut content);
            }
        }
        content.resize(length, 0);
        return content;
    }
    for (n, change) in changes[..reached].iter().enumerate() {
        let torn = fate != Fate::Kept && n + 1 == reached;
        for sector in change.sectors() {
            if !torn || chance.random_bool(0.5) {
                sector.on(&mut content);
            }
        }
    }
    content.resize(length, 0);
    content
}

fn put(names: &mut BTreeMap<String, NodeId>, changes: &Names) {
    for (name, node) in changes {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("below the root")
}

fn name(path: &Path) -> String {
    path.file_name().expect("below the root").to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use tempfile::tempdir;

    use super::*;

    fn event(path: &Path, inode: u64, did: Did) -> Event {
        Event { path: path.to_path_buf(), inode, did }
    }

    /// A file of 2048 bytes: made, written, synced, overwritten; its folder synced only if asked for.
    fn played(root: &Path, name_synced: bool) -> Disk {
        let mut disk = Disk::with(root);
        let file = root.join("f");
        let write = |byte: u8| Did::Wrote { offset: 0, bytes: vec![byte; 2048] };
        let mut events = vec![
            event(&file, 5, Did::Opened { created: true, emptied: false }),
            event(&file, 5, write(1)),
            event(&file, 5, Did::SyncBegins { turn: 1, range_only: false }),
            event(&file, 5, write(2)),
            event(&file, 5, Did::SyncEnds { turn: 1, succeeded: true }),
        ];
        if name_synced {
            events.push(event(root, 1, Did::SyncBegins { turn: 2, range_only: false }));
            events.push(event(root, 1, Did::SyncEnds { turn: 2, succeeded: true }));
        }
        events.iter().for_each(|event| disk.follow(event));
        disk
    }

    fn image(disk: &Disk, fate: Fate, seed: u64) -> Option<Vec<u8>> {
        let to = tempdir().expect("a folder");
        disk.image(to.path(), fate, &mut SmallRng::seed_from_u64(seed));
        fs::read(to.path().join("f")).ok()
    }

    #[test]
    fn what_was_synced_is_there_and_what_was_not_is_as_fate_will() {
        let root = tempdir().expect("a folder");
        let disk = played(root.path(), true);
        assert_eq!(image(&disk, Fate::Lost, 1), Some(vec![1; 2048]));
        assert_eq!(image(&disk, Fate::Kept, 1), Some(vec![2; 2048]));
        let mut mixtures = 0;
        for seed in 0..50 {
            for fate in [Fate::Torn, Fate::Scattered] {
                let content = image(&disk, fate, seed).expect("its name is durable");
                assert_eq!(content.len(), 2048);
                for sector in content.chunks(SECTOR) {
                    assert!(sector == [1; SECTOR] || sector == [2; SECTOR], "a sector is never torn");
                }
                mixtures += u32::from(content.contains(&1) && content.contains(&2));
            }
        }
        assert!(mixtures > 20, "{mixtures}");
    }

    #[test]
    fn a_name_without_a_sync_of_its_folder_may_be_gone() {
        let root = tempdir().expect("a folder");
        let disk = played(root.path(), false);
        assert_eq!(image(&disk, Fate::Lost, 1), None);
        assert!(image(&disk, Fate::Kept, 1).is_some());
    }
}
