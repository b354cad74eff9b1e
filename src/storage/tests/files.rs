//! Whose folder it is.

use tempfile::tempdir;

use super::*;
use crate::storage::files::{LockedFile, atomic_write, set_aside};
use crate::storage::identity::{Claim, DataDir};

#[test]
fn a_folder_is_claimed_once_and_refused_to_others() {
    let base = tempdir().unwrap();
    let path = base.path().join("a/b");
    let folder = DataDir::lock(&path).unwrap();
    assert_eq!(folder.check(&OURS).unwrap(), Claim::Fresh);
    folder.claim(&OURS).unwrap();
    assert_eq!(folder.check(&OURS).unwrap(), Claim::Known);
    assert_eq!(folder.identity().unwrap(), Some(OURS));
    assert!(matches!(DataDir::lock(&path), Err(StorageError::Locked { .. })));
    drop(folder);
    let folder = DataDir::lock(&path).unwrap();
    let copied = Identity { node_id: 2, ..OURS };
    assert!(matches!(folder.check(&copied), Err(StorageError::OtherNode { found: 1, expected: 2, .. })));
    let foreign = Identity { cluster_id: [0xAB; 16], ..OURS };
    let message = folder.check(&foreign).unwrap_err().to_string();
    assert!(message.contains("abababab") && message.contains("07070707"), "{message}");
}

#[test]
fn a_lock_ends_with_its_owner_even_while_a_forked_process_has_the_file() {
    let base = tempdir().unwrap();
    let path = base.path().join("lock");
    let owner = LockedFile::open_or_create(&path).unwrap();
    // What a process that was forked, and has not executed its program yet, holds.
    let inherited = owner.try_clone().unwrap();
    assert!(matches!(LockedFile::open(&path), Err(StorageError::Locked { .. })));
    drop(owner);
    LockedFile::open(&path).unwrap();
    drop(inherited);
}

#[test]
fn a_manifest_that_was_altered_or_is_newer_is_refused() {
    let base = tempdir().unwrap();
    let folder = DataDir::lock(base.path()).unwrap();
    folder.claim(&OURS).unwrap();
    let file = base.path().join("manifest");
    let text = fs::read_to_string(&file).unwrap();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(folder.check(&OURS).is_err(), "byte {at} of {text:?}");
        fs::write(&file, &text.as_bytes()[..at]).unwrap();
        assert!(folder.check(&OURS).is_err(), "cut at {at}");
    }
    fs::write(&file, text.replace("format 1", "format 2")).unwrap();
    let error = folder.check(&OURS).unwrap_err();
    assert!(matches!(error, StorageError::UnknownFormat { known: 1, .. }), "{error}");
}

#[test]
fn a_used_folder_without_its_manifest_is_not_fresh() {
    let base = tempdir().unwrap();
    let folder = DataDir::lock(base.path()).unwrap();
    fs::create_dir(folder.snapshots_dir()).unwrap();
    assert!(folder.check(&OURS).unwrap_err().is_damage());
    let moved = folder.set_aside("the manifest was lost").unwrap();
    assert_eq!(moved.len(), 1);
    assert_eq!(folder.check(&OURS).unwrap(), Claim::Fresh);
    let note = fs::read_to_string(moved[0].with_extension("damaged-1.reason")).unwrap();
    assert_eq!(note, "the manifest was lost\n");
}

#[test]
fn copies_that_are_set_aside_never_replace_each_other() {
    let base = tempdir().unwrap();
    let file = base.path().join("store");
    assert_eq!(set_aside(&file, "nothing there").unwrap(), None);
    for n in 1..4 {
        atomic_write(&file, format!("{n}").as_bytes()).unwrap();
        let moved = set_aside(&file, "test").unwrap().unwrap();
        assert_eq!(moved, base.path().join(format!("store.damaged-{n}")));
        assert_eq!(fs::read_to_string(moved).unwrap(), n.to_string());
    }
}
