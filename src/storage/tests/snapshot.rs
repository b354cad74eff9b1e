//! Snapshot files: whole, or refused.

use std::io::{Read, Write};

use tempfile::tempdir;

use super::*;
use crate::storage::snapshot_file::{BLOCK_BYTES_MAX, SnapshotDir, SnapshotId, SnapshotReader};

fn content(bytes: usize) -> Vec<u8> {
    let mut seeded = Seeded(bytes as u64 + 1);
    (0..bytes).map(|_| seeded.next() as u8).collect()
}

fn write(folder: &SnapshotDir, index: u64, bytes: &[u8]) -> PathBuf {
    let mut writer = folder.create(SnapshotId { index, term: 1 }, b"meta").unwrap();
    for piece in bytes.chunks(70_000) {
        writer.write_all(piece).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn content_of_any_length_comes_back() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    for bytes in [0, 1, BLOCK_BYTES_MAX - 1, BLOCK_BYTES_MAX, BLOCK_BYTES_MAX + 1, 3 * BLOCK_BYTES_MAX] {
        let file = write(&folder, bytes as u64, &content(bytes));
        let mut reader = SnapshotReader::open(&file).unwrap();
        assert_eq!(reader.meta().as_ref(), b"meta");
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert_eq!(back, content(bytes));
    }
}

#[test]
fn every_altered_byte_and_every_cut_is_refused() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    let file = write(&folder, 1, &content(300));
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        SnapshotReader::open(&file).and_then(SnapshotReader::verify).unwrap_err();
        fs::write(&file, &whole[..at]).unwrap();
        SnapshotReader::open(&file).and_then(SnapshotReader::verify).unwrap_err();
    }
    let longer: Vec<u8> = whole.iter().chain(b"x").copied().collect();
    fs::write(&file, longer).unwrap();
    SnapshotReader::open(&file).and_then(SnapshotReader::verify).unwrap_err();
}

#[test]
fn blocks_that_changed_places_are_refused_by_name_and_offset() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    let file = write(&folder, 1, &content(3 * BLOCK_BYTES_MAX));
    let mut bytes = fs::read(&file).unwrap();
    let (first, size) = (24, BLOCK_BYTES_MAX + 8);
    let (left, right) = bytes.split_at_mut(first + size);
    left[first..].swap_with_slice(&mut right[..size]);
    fs::write(&file, bytes).unwrap();
    let error = SnapshotReader::open(&file).and_then(SnapshotReader::verify).unwrap_err();
    let StorageError::Damaged(damage) = error else { panic!("{error}") };
    assert_eq!((damage.file, damage.offset), (file, first as u64));
}

#[test]
fn a_damaged_snapshot_leaves_the_older_one_and_old_ones_go() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    for index in [5, 7, 100] {
        write(&folder, index, &content(1000));
    }
    folder.delete_old().unwrap();
    let indexes: Vec<_> = folder.list().unwrap().iter().map(|id| id.index).collect();
    assert_eq!(indexes, [100, 7]);
    fs::write(folder.file(SnapshotId { index: 100, term: 1 }), b"garbage").unwrap();
    let newest = folder.newest(|_| None).unwrap();
    assert_eq!(newest.found.unwrap().0.index, 7);
    assert_eq!(newest.refused.len(), 1);
}

#[test]
fn a_snapshot_under_the_name_of_another_is_passed_over() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    for index in [5_u64, 7] {
        let id = SnapshotId { index, term: 1 };
        folder.create(id, &index.to_le_bytes()).unwrap().finish().unwrap();
    }
    let id_of =
        |meta: Bytes| Some(SnapshotId { index: u64::from_le_bytes(meta[..].try_into().unwrap()), term: 1 });
    assert_eq!(folder.newest(id_of).unwrap().found.unwrap().0.index, 7);
    let file = |index| folder.file(SnapshotId { index, term: 1 });
    fs::rename(file(5), file(9)).unwrap();
    let newest = folder.newest(id_of).unwrap();
    assert_eq!((newest.found.unwrap().0.index, newest.refused.len()), (7, 1));
    assert!(newest.refused[0].to_string().contains("log index 5 under another name"));
}

#[test]
fn what_was_not_finished_is_never_seen() {
    let dir = tempdir().unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    let id = SnapshotId { index: 9, term: 2 };
    let mut writer = folder.create(id, b"").unwrap();
    writer.add(&content(100)).unwrap();
    drop(writer);
    assert_eq!(files_in(dir.path()).len(), 0);
    fs::write(dir.path().join("left-by-a-crash.tmp"), b"x").unwrap();
    let folder = SnapshotDir::open(dir.path()).unwrap();
    assert_eq!(files_in(dir.path()).len(), 0);
    assert!(folder.newest(|_| None).unwrap().found.is_none());
}

#[test]
fn a_received_file_is_verified_before_it_has_a_name() {
    let (here, there) = (tempdir().unwrap(), tempdir().unwrap());
    let (sender, receiver) =
        (SnapshotDir::open(here.path()).unwrap(), SnapshotDir::open(there.path()).unwrap());
    let id = SnapshotId { index: 3, term: 1 };
    let sent = fs::read(write(&sender, 3, &content(2_000_000))).unwrap();
    for (bytes, whole) in [(&sent[..], true), (&sent[..sent.len() - 1], false)] {
        let mut incoming = receiver.receive(id).unwrap();
        bytes.chunks(65_536).for_each(|piece| incoming.add(piece).unwrap());
        assert_eq!(incoming.finish().is_ok(), whole);
    }
    assert_eq!(fs::read(receiver.file(id)).unwrap(), sent);
    assert_eq!(files_in(there.path()).len(), 1);
}
