//! The key-value store: what was written comes back, or is refused.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::tempdir;

use super::*;
use crate::storage::store::{
    KEY_BYTES_MAX, Op, Order, REQUEST_BYTES_MAX, SMALL_VALUE_BYTES_MAX, Store, StoreOptions, VALUE_BYTES_MAX,
};

type Fatals = Arc<Mutex<Vec<String>>>;

fn options(value_bytes_max: usize, fatals: &Fatals) -> StoreOptions {
    let fatals = Arc::clone(fatals);
    StoreOptions {
        trees: &["runs", "by_job"],
        value_bytes_max,
        cache_bytes: 16 << 20,
        on_fatal: Box::new(move |error| fatals.lock().unwrap().push(error.to_string())),
    }
}

fn open(path: &Path) -> (Store, Fatals) {
    let fatals = Fatals::default();
    (Store::open(path, options(4096, &fatals)).unwrap(), fatals)
}

fn key(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

#[tokio::test]
async fn rows_of_all_trees_come_back_in_order_after_reopening() {
    let dir = tempdir().unwrap();
    let (store, fatals) = open(dir.path());
    let (runs, jobs) = (store.tree("runs").unwrap(), store.tree("by_job").unwrap());
    assert!(store.tree("other").err().unwrap().is_refusal());
    for first in (0..1000).step_by(100) {
        let rows = (first..first + 100).flat_map(|n| {
            let value = vec![n as u8; 300];
            [Op::Put { tree: runs, key: key(n), value }, Op::Put { tree: jobs, key: key(n), value: vec![] }]
        });
        store.write(rows.collect()).await.unwrap();
    }
    let written = store.write(vec![Op::Delete { tree: runs, key: key(500) }]).await.unwrap();
    written.visible().await.unwrap();
    assert_eq!(store.get(runs, &key(500)).unwrap(), None);
    assert_eq!(store.get(jobs, &key(500)).unwrap(), Some(vec![]));
    store.barrier().await.unwrap();
    store.close().await.unwrap();

    let (store, _) = open(dir.path());
    let (from, to) = (key(495), key(505));
    let ascending = store.range(runs, &from..&to, Order::Ascending, 7).unwrap();
    let keys: Vec<_> = ascending.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [495, 496, 497, 498, 499, 501, 502].map(key));
    let descending = store.range(runs, &from..&to, Order::Descending, 2).unwrap();
    assert_eq!(descending, [504, 503].map(|n| (key(n), vec![n as u8; 300])));
    assert_eq!(store.range(runs, &to..&from, Order::Ascending, 2).unwrap(), []);
    let everything = store.range(runs, &[]..&[0xFF; 9], Order::Ascending, usize::MAX).unwrap();
    assert_eq!(everything.len(), 999);
    store.close().await.unwrap();
    assert_eq!(*fatals.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_above_a_limit_is_refused() {
    let dir = tempdir().unwrap();
    let (store, fatals) = open(dir.path());
    let tree = store.tree("runs").unwrap();
    let put = |key, value| Op::Put { tree, key: vec![1; key], value: vec![2; value] };
    let many = vec![put(8, 4096); REQUEST_BYTES_MAX / 4096];
    for wrong in [vec![put(8, 4097)], vec![put(KEY_BYTES_MAX + 1, 1)], many] {
        assert!(store.write(wrong).await.unwrap_err().is_refusal());
    }
    store.write(vec![put(KEY_BYTES_MAX, 4096)]).await.unwrap();
    store.close().await.unwrap();
    let too_much = options(VALUE_BYTES_MAX + 1, &fatals);
    assert!(Store::open(&dir.path().join("b"), too_much).err().unwrap().is_refusal());
    assert!(fatals.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_blob_file_appears_at_the_limits() {
    for (limit, rows) in [(VALUE_BYTES_MAX, 120), (SMALL_VALUE_BYTES_MAX, 300)] {
        let dir = tempdir().unwrap();
        let fatals = Fatals::default();
        let store = Store::open(dir.path(), options(limit, &fatals)).unwrap();
        let tree = store.tree("runs").unwrap();
        let mut seeded = Seeded(3);
        for n in 0..rows {
            let mut long = vec![9; KEY_BYTES_MAX - 8];
            long.extend(key(seeded.next() % 60 + n / 2));
            let value = (0..limit).map(|_| seeded.next() as u8).collect();
            store.write(vec![Op::Put { tree, key: long, value }]).await.unwrap();
            if n % 7 == 0 {
                store.barrier().await.unwrap();
            }
        }
        store.barrier().await.unwrap();
        assert_eq!(store.blob_files().unwrap(), 0, "values of {limit} bytes");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_row_with_a_wrong_checksum_is_fatal_and_the_next_opening_begins_anew() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("history");
    let (store, fatals) = open(&path);
    let tree = store.tree("runs").unwrap();
    let rows = (0..10).map(|n| Op::Put { tree, key: key(n), value: vec![n as u8; 20] });
    store.write(rows.collect()).await.unwrap().visible().await.unwrap();
    store.spoil(tree, &key(4));
    assert_eq!(store.get(tree, &key(3)).unwrap(), Some(vec![3; 20]));
    let error = store.get(tree, &key(4)).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert_eq!(*fatals.lock().unwrap(), [error.to_string()]);
    assert!(store.write(vec![]).await.is_err() && store.get(tree, &key(3)).is_err());
    std::mem::forget(store); // as a process that exits
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(path.join("manifest"), copy.join("manifest")).unwrap();
    fs::copy(path.join("damaged"), copy.join("damaged")).unwrap();

    assert!(Store::open(&copy, options(4096, &fatals)).err().unwrap().is_damage());
    let (store, anew) = Store::open_or_begin_anew(&copy, || options(4096, &fatals)).unwrap();
    let anew = anew.unwrap();
    assert_eq!(anew.moved_to, Some(dir.path().join("copy.damaged-1")));
    assert_eq!(store.get(tree, &key(3)).unwrap(), None);
    store.close().await.unwrap();
    let (store, anew) = Store::open_or_begin_anew(&copy, || options(4096, &fatals)).unwrap();
    assert!(anew.is_none());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_the_engine_cannot_read_is_set_aside() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("history");
    let (store, fatals) = open(&path);
    let tree = store.tree("runs").unwrap();
    for n in 0..2000 {
        store.write(vec![Op::Put { tree, key: key(n), value: vec![n as u8; 300] }]).await.unwrap();
    }
    store.close().await.unwrap();
    let log = fs::File::options().write(true).open(path.join("sled/db")).unwrap();
    for offset in (0..log.metadata().unwrap().len()).step_by(4096) {
        log.write_all_at(&[0xA5; 64], offset).unwrap();
    }
    let (store, anew) = Store::open_or_begin_anew(&path, || options(4096, &fatals)).unwrap();
    assert!(anew.is_some_and(|anew| anew.moved_to.is_some()));
    assert_eq!(store.get(tree, &key(1)).unwrap(), None);
    store.close().await.unwrap();
}

#[tokio::test]
async fn leftovers_of_a_cut_short_opening_do_no_harm() {
    let dir = tempdir().unwrap();
    let (store, _) = open(dir.path());
    let tree = store.tree("runs").unwrap();
    store.write(vec![Op::Put { tree, key: key(1), value: vec![5] }]).await.unwrap();
    store.close().await.unwrap();
    fs::write(dir.path().join("sled/snap.0000000000000099.generating"), b"short").unwrap();
    let (store, _) = open(dir.path());
    assert_eq!(store.get(tree, &key(1)).unwrap(), Some(vec![5]));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_has_one_user_and_keeps_its_trees() {
    let dir = tempdir().unwrap();
    let (store, fatals) = open(dir.path());
    assert!(matches!(Store::open(dir.path(), options(4096, &fatals)), Err(StorageError::Locked { .. })));
    store.close().await.unwrap();
    let renamed = StoreOptions { trees: &["by_job", "runs"], ..options(4096, &fatals) };
    assert!(matches!(Store::open(dir.path(), renamed), Err(StorageError::UnknownFormat { .. })));
    let longer = StoreOptions { trees: &["runs", "by_job", "more"], ..options(4096, &fatals) };
    Store::open(dir.path(), longer).unwrap().close().await.unwrap();
    fs::remove_file(dir.path().join("manifest")).unwrap();
    assert!(Store::open(dir.path(), options(4096, &fatals)).err().unwrap().is_damage());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_barriers_at_once_all_get_their_answer() {
    let dir = tempdir().unwrap();
    let (store, fatals) = open(dir.path());
    let store = Arc::new(store);
    let tree = store.tree("runs").unwrap();
    let writers = (0..16_u64).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..50 {
                let key = key(writer << 32 | n);
                store.write(vec![Op::Put { tree, key, value: vec![1; 300] }]).await.unwrap();
                store.barrier().await.unwrap();
            }
        })
    });
    let all = async {
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    let rows = store.range(tree, &[]..&[0xFF; 9], Order::Ascending, usize::MAX).unwrap();
    assert_eq!(rows.len(), 16 * 50);
    Arc::into_inner(store).unwrap().close().await.unwrap();
    assert!(fatals.lock().unwrap().is_empty());
}
