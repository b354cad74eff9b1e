//! A disk that is really full: a small file system of its own, and a node that writes until nothing more fits.
//!
//! Mounting needs the rights of root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::folder::{Kept, copy};
use crate::node_errors::Patient;
use crate::nodes::{Nodes, PROGRAM};
use crate::shim::Control;

/// A file system in memory, which ends with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(at).expect("a folder");
        let size = format!("size={mebibytes}m");
        run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref(), at]);
        Self(at.to_path_buf())
    }

    fn grow(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        run("mount", &["-o".as_ref(), options.as_ref(), &self.0]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            copy(&self.0, &self.0.with_extension("kept"));
        }
        // Lazily: a process that has just ended may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&Path]) {
    let ended = Command::new(program).args(args).output().expect("util-linux is everywhere");
    assert!(
        ended.status.success(),
        "{program} {args:?} (this test needs root): {}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_node_by_name_and_room_brings_it_back_whole() {
    let kept = Kept::new();
    let folder = kept.path().join("cluster");
    let disk = SmallDisk::mount(&folder.join("node-1"), 56);
    let nodes = Nodes::prepare(&folder, 1, PROGRAM.as_ref(), "\n[worker]\nallow_exec = true\n");
    let control = Control::at(kept.path().join("unused"));
    let mut patient = Patient::admit(nodes, control, kept).await;
    let log = patient.work_until_it_ends(60_000).await;
    assert!(log.contains("No space left on device"), "{log}");

    // Without room it may do what needs none, but it must neither lose anything nor call it damage.
    for _ in 0..2 {
        let from = patient.nodes.log(1).len();
        patient.nodes.cluster.start(1).expect("a process");
        let log = patient.work_until_it_ends(60_000).await;
        let all = patient.nodes.log_since(1, from);
        assert!(all.contains("No space left on device"), "{log}");
        assert!(!all.contains("damaged") && !all.contains("begun anew"), "{all}");
    }
    disk.grow(400);
    patient.has_lost_nothing("after a time without room").await;
    let client = patient.client();
    patient.work(&client, 100_000, 50).await.expect("there is room");
    patient.nodes.cluster.kill(1).await.expect("it ran");
    drop(disk); // before the folder that it is mounted in
}
