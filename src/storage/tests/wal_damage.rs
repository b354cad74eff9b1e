//! Torn or damaged: what may be cut off, and what has to be refused.

use std::os::unix::fs::FileExt;

use tempfile::tempdir;

use super::*;

/// A log with everything in it, over several segments. Returns its content.
async fn full_log(dir: &Path) -> Content {
    let (wal, _) = Wal::open(dir, small()).unwrap();
    wal.save_vote(Bytes::from_static(b"vote 1")).await.unwrap();
    for first in (0..240).step_by(4) {
        append(&wal, (first..first + 4).map(|index| entry(1 + first / 60, index))).await;
    }
    wal.purge_through(id(1, 55)).await.unwrap();
    wal.truncate_after(Some(220)).await.unwrap();
    append(&wal, (221..300).map(|index| entry(7, index))).await;
    wal.save_vote(Bytes::from_static(b"vote 2")).await.unwrap();
    append(&wal, (300..310).map(|index| entry(7, index))).await;
    wal.close().await.unwrap();
    let (content, repair) = content_of(dir, small()).await.unwrap();
    assert_eq!(repair, None);
    assert!(segments_in(dir).len() >= 5);
    content
}

fn spoil(path: &Path, kind: usize, seeded: &mut Seeded) -> String {
    let mut bytes = fs::read(path).unwrap();
    let at = seeded.below(bytes.len());
    let end = (at + 1 + seeded.below(600)).min(bytes.len());
    match kind {
        0 => bytes[at] ^= 1 << seeded.below(8),
        1 => bytes[at..end].fill(0),
        2 => bytes.truncate(at),
        3 => bytes[at..end].iter_mut().for_each(|byte| *byte = seeded.next() as u8),
        4 => bytes[at..].fill(0),
        5 => bytes = bytes[..at].iter().chain(&bytes[end..]).copied().collect(),
        _ => {
            fs::remove_file(path).unwrap();
            return "deleted".into();
        }
    }
    fs::write(path, bytes).unwrap();
    format!("kind {kind} at {at}..{end}")
}

#[tokio::test]
async fn a_fault_below_the_watermark_is_refused_or_harmless_but_never_silent() {
    let base = tempdir().unwrap();
    let origin = base.path().join("origin");
    let expected = full_log(&origin).await;
    let mut seeded = Seeded(0x5EED);
    let (mut refused, mut equal) = (0, 0);
    for n in 0..400 {
        let copy = base.path().join(n.to_string());
        copy_dir(&origin, &copy);
        let files = files_in(&copy);
        let file = &files[seeded.below(files.len())];
        let fault = spoil(file, n % 7, &mut seeded);
        match content_of(&copy, small()).await {
            Err(error) => {
                refused += 1;
                let known = matches!(error, StorageError::LogDamaged(_) | StorageError::UnknownFormat { .. });
                assert!(known, "fault {n}, {fault} in {}: {error}", file.display());
            }
            Ok((content, _)) => {
                equal += 1;
                assert_eq!(content, expected, "fault {n}, {fault} in {}", file.display());
            }
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    // Harmless are some faults in the watermark's spare copy and its padding, and in purged segments.
    assert!(refused > 270, "{refused} refused, {equal} harmless");
}

#[tokio::test]
async fn damage_names_the_file_the_byte_the_index_and_the_way_out() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions::new(OURS, true)).unwrap();
    append(&wal, (0..50).map(|index| entry(1, index))).await;
    wal.close().await.unwrap();
    let segment = segments_in(dir.path()).remove(0);
    let at = fs::read(&segment).unwrap().windows(3).position(|three| three == b"20 ").unwrap();
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(b"X", at as u64).unwrap();
    let error = Wal::open(dir.path(), WalOptions::new(OURS, true)).err().unwrap();
    let StorageError::LogDamaged(damage) = &error else { panic!("{error}") };
    assert_eq!((&damage.file, damage.offset, damage.index), (&segment, at as u64 - 48, Some(20)));
    let message = error.to_string();
    assert!(message.contains(segment.to_str().unwrap()) && message.contains("--rejoin"), "{message}");
}

/// A log whose last append is on disk but was not acknowledged: the watermark is from before it.
async fn log_with_unsynced_tail(dir: &Path) -> (Content, u64) {
    let (wal, _) = Wal::open(dir, WalOptions::new(OURS, true)).unwrap();
    append(&wal, (0..20).map(|index| entry(1, index))).await;
    wal.close().await.unwrap();
    let (content, _) = content_of(dir, WalOptions::new(OURS, true)).await.unwrap();
    let mark = fs::read(dir.join("synced")).unwrap();
    let segment = segments_in(dir).remove(0);
    let synced = fs::metadata(&segment).unwrap().len();
    let (wal, _) = Wal::open(dir, WalOptions::new(OURS, true)).unwrap();
    append(&wal, [entry(1, 20)]).await;
    wal.close().await.unwrap();
    fs::write(dir.join("synced"), mark).unwrap();
    (content, synced)
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_at_each_byte() {
    let base = tempdir().unwrap();
    let origin = base.path().join("origin");
    let (before, synced) = log_with_unsynced_tail(&origin).await;
    let whole = fs::read(segments_in(&origin).remove(0)).unwrap();
    for length in synced as usize..whole.len() {
        for zeros in [false, true] {
            let copy = base.path().join("copy");
            copy_dir(&origin, &copy);
            let segment = segments_in(&copy).remove(0);
            let mut torn = whole[..length].to_vec();
            torn.resize(if zeros { whole.len() } else { length }, 0);
            fs::write(&segment, &torn).unwrap();
            let (content, repair) = content_of(&copy, WalOptions::new(OURS, true)).await.unwrap();
            assert_eq!(content, before, "cut at {length}");
            let dropped = torn.len() as u64 - synced;
            assert_eq!(repair.map(|repair| repair.dropped_bytes), (dropped > 0).then_some(dropped));
            assert_eq!(fs::metadata(&segment).unwrap().len(), synced);
            let (_, repair) = content_of(&copy, WalOptions::new(OURS, true)).await.unwrap();
            assert_eq!(repair, None, "a repaired log must open cleanly");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[tokio::test]
async fn a_log_goes_on_after_a_torn_tail() {
    let dir = tempdir().unwrap();
    let (_, synced) = log_with_unsynced_tail(dir.path()).await;
    let segment = segments_in(dir.path()).remove(0);
    fs::File::options().write(true).open(&segment).unwrap().set_len(synced + 30).unwrap();
    let (wal, opened) = Wal::open(dir.path(), WalOptions::new(OURS, true)).unwrap();
    assert!(opened.repair.is_some());
    append(&wal, (20..40).map(|index| entry(2, index))).await;
    wal.close().await.unwrap();
    let (content, _) = content_of(dir.path(), WalOptions::new(OURS, true)).await.unwrap();
    assert_eq!(content.entries.len(), 40);
}

#[tokio::test]
async fn a_later_record_testifies_even_when_the_watermark_is_old() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions::new(OURS, true)).unwrap();
    let old_mark = fs::read(dir.path().join("synced")).unwrap();
    for index in 0..40 {
        append(&wal, [entry(1, index)]).await;
    }
    wal.close().await.unwrap();
    // As after a power cut in which the newest watermark did not reach the disk.
    fs::write(dir.path().join("synced"), &old_mark).unwrap();
    let segment = segments_in(dir.path()).remove(0);
    let at = fs::read(&segment).unwrap().windows(3).position(|three| three == b"20 ").unwrap();
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(b"X", at as u64).unwrap();
    let error = Wal::open(dir.path(), WalOptions::new(OURS, true)).err().unwrap();
    let StorageError::LogDamaged(damage) = &error else { panic!("{error}") };
    assert!(damage.reason.contains("written when this was durable"), "{error}");
}

#[tokio::test]
async fn a_log_that_is_gone_is_not_replaced_by_an_empty_one() {
    let dir = tempdir().unwrap();
    let known = WalOptions { create: false, ..small() };
    let log = dir.path().join("log");
    assert!(matches!(Wal::open(&log, known.clone()), Err(StorageError::LogDamaged(_))));
    fs::create_dir(&log).unwrap();
    assert!(matches!(Wal::open(&log, known.clone()), Err(StorageError::LogDamaged(_))));
    let _ = full_log(&log).await;
    let newest = segments_in(&log).pop().unwrap();
    fs::remove_file(&newest).unwrap();
    let error = Wal::open(&log, known).err().unwrap();
    assert!(matches!(error, StorageError::LogDamaged(_)), "{error}");
}

#[tokio::test]
async fn creation_that_was_cut_short_is_completed() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    wal.close().await.unwrap();
    fs::remove_file(dir.path().join("synced")).unwrap();
    fs::write(dir.path().join("00000000000000000123.wal.tmp"), b"half a segment").unwrap();
    let (content, _) = content_of(dir.path(), small()).await.unwrap();
    assert_eq!(content.entries, []);
    assert_eq!(files_in(dir.path()).len(), 2);
}

/// A crash may fall between the deletion of two segments. What is left then begins with entries of which no byte is
/// left; among them is the one that a truncation, in what is left, has made the last.
#[tokio::test]
async fn a_log_of_which_some_purged_segments_are_deleted_opens_though_it_was_truncated_across_them() {
    let base = tempdir().unwrap();
    let (dir, before) = (base.path().join("log"), base.path().join("before"));
    let (wal, _) = Wal::open(&dir, small()).unwrap();
    for first in (0..120).step_by(4) {
        append(&wal, (first..first + 4).map(|index| entry(2, index))).await;
    }
    wal.truncate_after(Some(40)).await.unwrap();
    for first in (41..140).step_by(3) {
        append(&wal, (first..first + 3).map(|index| entry(3, index))).await;
    }
    copy_dir(&dir, &before);
    wal.purge_through(id(3, 135)).await.unwrap();
    append(&wal, (140..142).map(|index| entry(3, index))).await;
    wal.close().await.unwrap();
    let (expected, _) = content_of(&dir, small()).await.unwrap();
    let left = segments_in(&dir);
    let deleted: Vec<_> = segments_in(&before)
        .into_iter()
        .filter(|old| left.iter().all(|new| new.file_name() != old.file_name()))
        .collect();
    assert!(deleted.len() > 3, "{deleted:?}");
    for from in 0..=deleted.len() {
        let copy = base.path().join("copy");
        copy_dir(&dir, &copy);
        for old in &deleted[from..] {
            fs::copy(old, copy.join(old.file_name().unwrap())).unwrap();
        }
        let (content, repair) = content_of(&copy, small()).await.unwrap();
        assert_eq!((content, repair), (expected.clone(), None), "{from} of the segments are deleted");
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_no_torn_tail() {
    let dir = tempdir().unwrap();
    let (before, synced) = log_with_unsynced_tail(dir.path()).await;
    let segment = segments_in(dir.path()).remove(0);
    let whole = fs::read(&segment).unwrap();
    for (at, value) in [(1, 2), (2, 77)] {
        let mut bytes = whole.clone();
        let header = &mut bytes[synced as usize..][..48];
        header[at] = value;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&synced.to_le_bytes());
        crc.update(&header[..44]);
        header[44..].copy_from_slice(&crc.finalize().to_le_bytes());
        fs::write(&segment, &bytes).unwrap();
        let error = Wal::open(dir.path(), WalOptions::new(OURS, true)).err().unwrap();
        assert!(matches!(error, StorageError::UnknownFormat { .. }), "{error}");
        assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing is cut off");
        // With a checksum that does not hold it is what a torn write leaves.
        bytes[synced as usize + 44] ^= 1;
        fs::write(&segment, &bytes).unwrap();
        let (content, repair) = content_of(dir.path(), WalOptions::new(OURS, true)).await.unwrap();
        assert!(content == before && repair.is_some());
    }
}

#[tokio::test]
async fn an_unknown_format_is_refused_by_its_name() {
    let dir = tempdir().unwrap();
    full_log(dir.path()).await;
    let segment = segments_in(dir.path()).remove(0);
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(&[9], 8).unwrap();
    let error = Wal::open(dir.path(), small()).err().unwrap();
    let StorageError::UnknownFormat { file, found, known: 1 } = &error else { panic!("{error}") };
    assert_eq!((file, found.as_str()), (&segment, "9"));
}

#[tokio::test]
async fn damage_after_opening_is_found_by_the_read_and_ends_the_log() {
    let dir = tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions { tail_bytes: 0, ..small() }).unwrap();
    append(&wal, (0..30).map(|index| entry(1, index))).await;
    let segment = segments_in(dir.path()).remove(0);
    let at = fs::read(&segment).unwrap().windows(3).position(|three| three == b"12 ").unwrap();
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(b"X", at as u64).unwrap();
    assert_eq!(wal.read(0..12, usize::MAX).await.unwrap().len(), 12);
    let error = wal.read(0..30, usize::MAX).await.unwrap_err();
    let StorageError::LogDamaged(damage) = &error else { panic!("{error}") };
    assert_eq!(damage.index, Some(12));
    assert_eq!(wal.save_vote(Bytes::new()).await.unwrap_err().to_string(), error.to_string());
}
