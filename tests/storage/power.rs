//! The power goes: at any moment of a process's life, with any part of what was not synced on the disk.
//!
//! A child works under the shim, which notes what it does to its files and what it acknowledges, in one order. From
//! that the model of a disk makes images as of many moments, and each has to open with everything that was
//! acknowledged by then. One image of each life is what the next life begins with.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::child::{Said, Task, verify};
use crate::disk::{Disk, Fate};
use crate::folder::{Kept, copy, rounds, seed};
use crate::shim::Shim;
use crate::trace::{self, Did, Event};
use crate::work::Before;

/// Moments: where they are, and how the disk fares.
struct Cuts {
    moments: Vec<usize>,
}

impl Cuts {
    /// As many moments as asked for: right behind an acknowledgement, in the first steps, and anywhere.
    fn draw(events: &[Event], count: u64, chance: &mut SmallRng) -> Self {
        let said: Vec<usize> =
            (1..=events.len()).filter(|at| matches!(events[at - 1].did, Did::Acknowledges { .. })).collect();
        let mut moments: Vec<usize> = (0..count)
            .map(|n| match n % 4 {
                0 | 1 if !said.is_empty() => said[chance.random_range(0..said.len())],
                2 => chance.random_range(0..=events.len().min(90)),
                _ => chance.random_range(0..=events.len()),
            })
            .collect();
        moments.sort_unstable();
        Self { moments }
    }
}

struct Outage {
    seed: u64,
    cuts: u64,
    run_log: bool,
    images: u64,
    acknowledged: usize,
}

impl Outage {
    /// One life: works from what is in `root`, is cut at many moments, and leaves one of the images there.
    async fn life(&mut self, kept: &Kept, known: &Before, life: u64) -> Before {
        let mut chance = SmallRng::seed_from_u64(self.seed + life);
        let file = |name: &str| kept.path().join(name);
        let (root, acks, noted) = (file("data"), file("acks"), file(&format!("trace-{life}")));
        let _ = std::fs::remove_file(&acks);
        std::fs::create_dir_all(&root).expect("a folder");
        let mut disk = Disk::with(&root);
        let task = Task { root, acks, seed: self.seed + life, length: 90, run_log: self.run_log };
        let shim = Shim::of(&task.root).trace(&noted).acks(&task.acks);
        let ended = task.command(Some(&shim)).status().await.expect("it starts");
        assert!(ended.success(), "seed {}, life {life}: {ended}", self.seed);
        let events = trace::read(&noted);
        let moments = Cuts::draw(&events, self.cuts, &mut chance).moments;
        let goes_on = moments[chance.random_range(0..moments.len())];
        let (mut followed, mut heard, mut next) = (0, String::new(), None);
        for at in moments {
            for event in &events[followed..at] {
                if let Did::Acknowledges { bytes } = &event.did {
                    heard.push_str(std::str::from_utf8(bytes).expect("it speaks in lines"));
                }
                disk.follow(event);
            }
            followed = at;
            let said = Said::parse(&heard);
            for fate in Fate::ALL {
                let image = file("image");
                disk.image(&image, fate, &mut chance);
                let found = verify(&image, known, &task, &said).await.unwrap_or_else(|wrong| {
                    panic!("seed {}, life {life}, cut at call {at}, {fate:?}: {wrong}", self.seed)
                });
                self.images += 1;
                if at == goes_on && next.is_none() && fate == Fate::Scattered {
                    next = Some(found);
                    std::fs::remove_dir_all(file("next")).or_else(gone_is_fine).expect("our own folder");
                    copy(&image, &file("next"));
                }
                std::fs::remove_dir_all(&image).expect("our own folder");
            }
            self.acknowledged += said.log;
        }
        std::fs::remove_dir_all(&task.root).expect("our own folder");
        std::fs::rename(file("next"), &task.root).expect("one folder");
        next.expect("one of the images goes on")
    }
}

fn gone_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

async fn power_goes(seed: u64, lives: u64, cuts: u64, run_log: bool) {
    const LIVES_A_FOLDER: u64 = 4;
    let mut outage = Outage { seed, cuts, run_log, images: 0, acknowledged: 0 };
    let (mut kept, mut known) = (Kept::new(), Before::default());
    for life in 0..lives {
        if life % LIVES_A_FOLDER == 0 {
            (kept, known) = (Kept::new(), Before::default());
        }
        known = outage.life(&kept, &known, life).await;
    }
    let Outage { images, acknowledged, .. } = outage;
    eprintln!(
        "seed {seed}: {lives} lives, {images} images, {acknowledged} operations acknowledged in them, none lost"
    );
    assert!(acknowledged > 0, "nothing was acknowledged before any of the cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_the_vote_and_the_snapshots_survive_a_power_cut_at_any_moment() {
    power_goes(seed(3_000), rounds(4), 24, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_run_log_survives_a_power_cut_at_any_moment() {
    power_goes(seed(4_000), rounds(4), 6, true).await;
}
