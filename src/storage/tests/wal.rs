//! The log as a caller uses it: what was acknowledged is there after reopening.

use tempfile::tempdir;

use super::*;
use crate::storage::wal::ENTRY_BYTES_MAX;

#[tokio::test]
async fn every_kind_of_record_survives_reopening() {
    let dir = tempdir().unwrap();
    let (wal, opened) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!((opened.vote, opened.last, opened.purged), (None, None, None));
    wal.save_vote(Bytes::from_static(b"vote 1")).await.unwrap();
    append(&wal, (0..200).map(|index| entry(1, index))).await;
    wal.truncate_after(Some(149)).await.unwrap();
    append(&wal, (150..260).map(|index| entry(2, index))).await;
    wal.save_vote(Bytes::from_static(b"vote 2")).await.unwrap();
    wal.save_committed(Bytes::from_static(b"240")).unwrap();
    wal.purge_through(id(1, 99)).await.unwrap();
    assert_eq!((wal.term_at(99), wal.term_at(149), wal.term_at(150)), (Some(1), Some(1), Some(2)));
    wal.close().await.unwrap();

    for _ in 0..2 {
        let (content, repair) = content_of(dir.path(), small()).await.unwrap();
        assert_eq!(repair, None);
        assert_eq!(content.opened.vote.as_deref(), Some(&b"vote 2"[..]));
        assert_eq!(content.opened.committed.as_deref(), Some(&b"240"[..]));
        assert_eq!((content.opened.purged, content.opened.last), (Some(id(1, 99)), Some(id(2, 259))));
        let expected: Vec<_> =
            (100..260).map(|index| entry(if index < 150 { 1 } else { 2 }, index)).collect();
        assert_eq!(content.entries, expected);
    }
}

#[tokio::test]
async fn vote_survives_the_deletion_of_the_segment_that_held_it() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    wal.save_vote(Bytes::from_static(b"early")).await.unwrap();
    for index in 0..300 {
        append(&wal, [entry(3, index)]).await;
    }
    let before = segments_in(dir.path()).len();
    let bytes = wal.size_bytes();
    wal.purge_through(id(3, 280)).await.unwrap();
    wal.close().await.unwrap();
    let after = segments_in(dir.path()).len();
    assert!(before > 5 && after < 3, "{before} segments before the purge, {after} after it");
    assert!(wal.size_bytes() < bytes / 3);
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.opened.vote.as_deref(), Some(&b"early"[..]));
    assert_eq!(content.entries, (281..300).map(|index| entry(3, index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn purge_beyond_the_end_moves_the_end() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, (0..100).map(|index| entry(1, index))).await;
    wal.purge_through(id(4, 5000)).await.unwrap();
    assert_eq!(wal.bounds(), (Some(id(4, 5000)), Some(id(4, 5000))));
    append(&wal, [entry(4, 5001)]).await;
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.opened.purged, Some(id(4, 5000)));
    assert_eq!(content.entries, [entry(4, 5001)]);
}

#[tokio::test]
async fn truncating_everything_leaves_an_empty_log_that_can_start_again() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, (5..120).map(|index| entry(1, index))).await;
    wal.truncate_after(None).await.unwrap();
    assert_eq!(wal.bounds(), (None, None));
    append(&wal, (2..90).map(|index| entry(2, index))).await;
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.entries, (2..90).map(|index| entry(2, index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn truncation_then_append_shows_the_new_entries_at_once() {
    let dir = tempdir().unwrap();
    // No memory for the newest entries: every read of a durable entry goes to the disk.
    let (wal, _) = Wal::open(dir.path(), WalOptions { tail_bytes: 0, ..small() }).unwrap();
    append(&wal, (0..50).map(|index| entry(1, index))).await;
    for term in 2..40 {
        wal.truncate_after(Some(20)).await.unwrap();
        let (done, durable) = reported();
        wal.append((21..50).map(|index| entry(term, index)).collect(), done).await.unwrap();
        let read = wal.read(15..50, usize::MAX).await.unwrap();
        let expected: Vec<_> =
            (15..50).map(|index| entry(if index <= 20 { 1 } else { term }, index)).collect();
        assert_eq!(read, expected);
        durable.recv().unwrap().unwrap();
    }
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.opened.last, Some(id(39, 49)));
}

#[tokio::test]
async fn what_does_not_follow_is_refused_and_changes_nothing() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, (0..10).map(|index| entry(5, index))).await;
    wal.purge_through(id(5, 3)).await.unwrap();
    let too_large = WalEntry { id: id(5, 10), payload: Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]) };
    for wrong in [entry(5, 11), entry(5, 9), entry(4, 10), too_large] {
        let (done, durable) = reported();
        let error = wal.append(vec![wrong], done).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert!(durable.recv().is_err(), "a refused append must not be reported as done");
    }
    assert!(wal.truncate_after(Some(2)).await.unwrap_err().is_refusal());
    wal.truncate_after(Some(3)).await.unwrap();
    assert_eq!(wal.bounds(), (Some(id(5, 3)), Some(id(5, 3))));
    append(&wal, [entry(6, 4)]).await;
    wal.close().await.unwrap();
    assert_eq!(content_of(dir.path(), small()).await.unwrap().0.entries, [entry(6, 4)]);
}

#[tokio::test]
async fn reads_join_disk_and_memory_and_keep_to_their_limit() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions { tail_bytes: 2000, ..small() }).unwrap();
    for index in 0..200 {
        append(&wal, [entry(1, index)]).await;
    }
    let all: Vec<_> = (0..200).map(|index| entry(1, index)).collect();
    assert_eq!(wal.read(0..u64::MAX, usize::MAX).await.unwrap(), all);
    assert_eq!(wal.read(30..190, usize::MAX).await.unwrap(), all[30..190]);
    assert_eq!(wal.read(30..190, 0).await.unwrap(), all[30..31]);
    let limited = wal.read(100..200, 1000).await.unwrap();
    let bytes: usize = limited.iter().map(|entry| entry.payload.len()).sum();
    let next = all[100 + limited.len()].payload.len();
    assert!(bytes <= 1000 && bytes + next > 1000, "{bytes} bytes");
    assert_eq!(wal.read(200..300, 1000).await.unwrap(), []);
    wal.close().await.unwrap();
}

#[tokio::test]
async fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let large = |index| WalEntry { id: id(1, index), payload: Bytes::from(vec![index as u8; 10_000]) };
    append(&wal, (0..8).map(large)).await;
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.entries, (0..8).map(large).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_serves_one_process_and_its_own_node_only() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert!(matches!(Wal::open(dir.path(), small()), Err(StorageError::Locked { .. })));
    wal.close().await.unwrap();
    assert!(matches!(wal.save_committed(Bytes::new()), Err(StorageError::Closed)));
    assert!(matches!(wal.save_vote(Bytes::new()).await, Err(StorageError::Closed)));
    let other_node = Identity { node_id: 2, ..OURS };
    let error = Wal::open(dir.path(), WalOptions { identity: other_node, ..small() }).err().unwrap();
    assert!(matches!(error, StorageError::OtherNode { found: 1, expected: 2, .. }), "{error}");
    let other_cluster = Identity { cluster_id: [8; 16], ..OURS };
    let error = Wal::open(dir.path(), WalOptions { identity: other_cluster, ..small() }).err().unwrap();
    assert!(matches!(error, StorageError::OtherCluster { .. }), "{error}");
}
