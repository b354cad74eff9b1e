//! `--rejoin`: a machine whose node has lost its data, or found somebody else's, begins anew.
//!
//! What the folder holds is set aside, never deleted, and the node starts as one that belongs to no cluster and waits
//! to be added. It has to be another node than before: the old one's promises to its peers are lost with its data.
//! Here the folder's own manifest is asked for that; where it is unreadable or gone, the members find out (`raft`'s
//! formation, rule 6). The same check keeps an order that was left in a start script from setting the new node's
//! data aside when it starts the next time.

use std::path::PathBuf;

use tracing::{info, warn};

use crate::storage::{DataDir, StorageError};

/// Why the folder was left as it is.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// The folder is this very node's.
    #[error(
        "{} is the folder of node {node_id} itself, which must not begin anew under its own id: it may have voted\n\
         hint: if the data is sound, start without `--rejoin`; if it is lost, choose a `--node-id` that was never used",
        path.display()
    )]
    SameNode {
        /// The folder.
        path: PathBuf,
        /// The node.
        node_id: u64,
    },
    /// The folder cannot be read, or what is in it not be moved.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Empties the folder for node `node_id`; says where things went. Does nothing on an unused folder.
///
/// # Errors
/// [`RejoinError`]. What was moved before an error stays where it went; asking again moves the rest.
pub(super) fn begin_anew(data_dir: &DataDir, node_id: u64, peer_address: &str) -> Result<(), RejoinError> {
    let reason = match data_dir.identity() {
        Ok(Some(found)) if found.node_id == node_id => {
            return Err(RejoinError::SameNode { path: data_dir.path().to_path_buf(), node_id });
        }
        Ok(Some(found)) => format!("the data of node {}; node {node_id} began anew here", found.node_id),
        Ok(None) => format!("data of no known node; node {node_id} began anew here"),
        // An unreadable manifest is one reason to be here.
        Err(StorageError::Damaged(_) | StorageError::UnknownFormat { .. }) => {
            format!("data with an unreadable manifest; node {node_id} began anew here")
        }
        Err(error) => return Err(error.into()),
    };
    for moved in data_dir.set_aside(&reason)? {
        warn!(to = %moved.display(), reason, "set aside");
    }
    info!(
        "this node waits to be added: `chronarch cluster add {node_id} {peer_address} --promote`; later starts are \
         without `--rejoin`, with `node_id = {node_id}` and without `peers` in the configuration"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Identity;

    #[test]
    fn another_nodes_data_is_set_aside_and_its_own_is_left() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = DataDir::lock(root.path()).expect("a lock");
        dir.claim(&Identity { cluster_id: [1; 16], node_id: 2 }).expect("a manifest");
        std::fs::create_dir(dir.log_dir()).expect("a folder");
        let refused = begin_anew(&dir, 2, "a:1");
        assert!(matches!(refused, Err(RejoinError::SameNode { node_id: 2, .. })), "{refused:?}");
        assert!(dir.log_dir().exists());
        begin_anew(&dir, 4, "a:1").expect("it is another node");
        assert!(!dir.log_dir().exists() && root.path().join("log.damaged-1").exists());
        assert_eq!(dir.identity().expect("readable"), None);
        begin_anew(&dir, 4, "a:1").expect("nothing is left to do");
    }

    #[test]
    fn an_unreadable_manifest_is_set_aside_too() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = DataDir::lock(root.path()).expect("a lock");
        std::fs::write(root.path().join("manifest"), "nonsense").expect("a file");
        begin_anew(&dir, 4, "a:1").expect("it can be moved");
        assert_eq!(dir.identity().expect("readable"), None);
    }
}
