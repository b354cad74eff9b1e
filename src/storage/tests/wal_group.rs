//! Group commit, back-pressure, and the end after an error.

use std::sync::Arc;
use std::time::Duration;

use tempfile::tempdir;

use super::*;

#[tokio::test]
async fn appends_that_wait_together_share_a_sync() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions::new(OURS, true)).unwrap();
    let before = wal.stats();
    let mut waiting = Vec::new();
    for index in 0..2000 {
        let (done, durable) = reported();
        wal.append(vec![entry(1, index)], done).await.unwrap();
        waiting.push(durable);
    }
    wal.barrier().await.unwrap();
    for durable in waiting {
        durable.try_recv().unwrap().unwrap();
    }
    let syncs = wal.stats().syncs - before.syncs;
    assert!((1..1000).contains(&syncs), "{syncs} syncs for 2000 appends");
    wal.close().await.unwrap();
}

#[tokio::test]
async fn commit_marks_cost_no_sync_and_do_not_pile_up() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions::new(OURS, true)).unwrap();
    append(&wal, [entry(1, 0)]).await;
    let before = wal.stats();
    for n in 0..100_000_u64 {
        wal.save_committed(Bytes::copy_from_slice(&n.to_le_bytes())).unwrap();
    }
    wal.barrier().await.unwrap();
    let after = wal.stats();
    assert_eq!(after.syncs, before.syncs);
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), WalOptions::new(OURS, true)).await.unwrap();
    assert_eq!(content.opened.committed.as_deref(), Some(&99_999_u64.to_le_bytes()[..]));
}

#[tokio::test]
async fn a_full_queue_holds_the_caller_back() {
    let dir = tempdir().unwrap();
    let options = WalOptions { queue_bytes: 8 << 10, ..WalOptions::new(OURS, true) };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    // The writer stands still inside this completion until it is let go.
    let (go, gate) = mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let stop: Completion = Box::new(move |_| {
        entered.send(()).unwrap();
        gate.recv().unwrap();
    });
    wal.append(vec![entry(1, 0)], stop).await.unwrap();
    inside.await.unwrap();
    for index in 1..=8 {
        wal.append(vec![sized(index, 0)], reported().0).await.unwrap_or_else(|e| panic!("{index}: {e}"));
    }
    let (done, durable) = reported();
    let ninth = wal.append(vec![sized(9, 0)], done);
    tokio::pin!(ninth);
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut ninth).await;
    assert!(waited.is_err(), "the queue took more than its limit");
    go.send(()).unwrap();
    ninth.await.unwrap();
    crate::threads::blocking(move || durable.recv().unwrap().unwrap()).await.unwrap();
    wal.close().await.unwrap();
}

#[tokio::test]
async fn an_append_larger_than_the_queue_still_goes_through() {
    let dir = tempdir().unwrap();
    let options = WalOptions { queue_bytes: 8 << 10, ..WalOptions::new(OURS, true) };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    append(&wal, (0..4).map(|index| sized(index, 100_000))).await;
    append(&wal, (4..8).map(|index| sized(index, 100_000))).await;
    assert_eq!(wal.bounds().1, Some(id(1, 7)));
    wal.close().await.unwrap();
}

fn sized(index: u64, bytes: usize) -> WalEntry {
    WalEntry { id: id(1, index), payload: Bytes::from(vec![1; bytes]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_entries_are_in_an_image_taken_at_any_moment() {
    let dir = tempdir().unwrap();
    let image = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let wal = Arc::new(wal);
    let mut seeded = Seeded(11);
    let mut next = 0;
    for round in 0..12 {
        let mut acknowledged = Vec::new();
        for _ in 0..1 + seeded.below(30) {
            let (done, durable) = reported();
            wal.append(vec![entry(round, next)], done).await.unwrap();
            acknowledged.push((next, durable));
            next += 1;
        }
        // What is acknowledged when the copy begins has to be in it.
        let known = acknowledged.iter().rev().find(|(_, durable)| durable.try_recv().is_ok());
        let known = known.map(|(index, _)| *index);
        let copy = image.path().join(round.to_string());
        copy_growing_dir(dir.path(), &copy);
        let (content, _) = content_of(&copy, small()).await.unwrap();
        let last = content.opened.last.map(|id| id.index);
        assert!(last >= known, "round {round}: {last:?} in the image, {known:?} acknowledged");
    }
    wal.close().await.unwrap();
}

/// Copies a folder in which segments are being added: the watermark first, so that it is never ahead of the copy.
fn copy_growing_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("synced"), to.join("synced")).unwrap();
    for path in segments_in(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn an_error_ends_the_log_for_everyone() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, (0..20).map(|index| entry(1, index))).await;
    // The next segment cannot be created.
    fs::remove_dir_all(dir.path()).unwrap();
    let (done, durable) = reported();
    wal.append((20..200).map(|index| entry(1, index)).collect(), done).await.unwrap();
    let error = crate::threads::blocking(move || durable.recv().unwrap().unwrap_err()).await.unwrap();
    assert!(matches!(&error, StorageError::Io { op: "create", .. }), "{error}");
    for _ in 0..3 {
        let again = wal.save_vote(Bytes::new()).await.unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(wal.append(vec![], reported().0).await.unwrap_err().to_string(), error.to_string());
        assert_eq!(wal.read(0..10, 1000).await.unwrap_err().to_string(), error.to_string());
    }
}

#[tokio::test]
async fn a_panic_in_a_completion_leaves_nobody_waiting() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    wal.append(vec![entry(1, 0)], Box::new(|_| panic!("a panic that the test wants"))).await.unwrap();
    while wal.save_vote(Bytes::new()).await.is_ok() {}
    let error = wal.barrier().await.unwrap_err();
    assert!(matches!(error, StorageError::Panicked { .. }), "{error}");
}
