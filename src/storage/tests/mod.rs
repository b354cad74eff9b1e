//! Tests of the stores as their callers see them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop at the spot")]

mod files;
mod snapshot;
mod store;
mod wal;
mod wal_damage;
mod wal_group;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;

use super::identity::Identity;
use super::wal::{Completion, EntryId, Opened, Wal, WalEntry, WalOptions};
use super::{StorageError, wal::Repair};

const OURS: Identity = Identity { cluster_id: [7; 16], node_id: 1 };

/// A small generator: the same faults in every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn small() -> WalOptions {
    WalOptions { segment_bytes: 4096, ..WalOptions::new(OURS, true) }
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: 1, index }
}

fn entry(term: u64, index: u64) -> WalEntry {
    let payload = format!("{index} {}", "x".repeat((index % 97) as usize));
    WalEntry { id: id(term, index), payload: Bytes::from(payload) }
}

fn reported() -> (Completion, mpsc::Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Appends and waits until it is durable.
async fn append(wal: &Wal, entries: impl IntoIterator<Item = WalEntry>) {
    let (sender, durable) = tokio::sync::oneshot::channel();
    let done: Completion = Box::new(move |result| drop(sender.send(result)));
    wal.append(entries.into_iter().collect(), done).await.unwrap();
    durable.await.unwrap().unwrap();
}

/// Everything that a log holds.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    opened: Opened,
    entries: Vec<WalEntry>,
}

async fn content_of(dir: &Path, options: WalOptions) -> Result<(Content, Option<Repair>), StorageError> {
    let (wal, mut opened) = Wal::open(dir, options)?;
    let repair = opened.repair.take();
    let entries = wal.read(0..u64::MAX, usize::MAX).await?;
    wal.close().await?;
    Ok((Content { opened, entries }, repair))
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files_in(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn segments_in(dir: &Path) -> Vec<PathBuf> {
    files_in(dir).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "wal")).collect()
}
