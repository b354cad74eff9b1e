//! The stores under attack: killed processes, lost power, full, failing and slow disks, spoiled files.
//!
//! What counts is what the stores said was done: an acknowledgement that left the process. Whatever happens then, the
//! folder opens with everything acknowledged, contiguous and unaltered, or is refused by name. Everything is drawn
//! from seeds; a verdict prints the seed, and the folder of a failed test is kept.
//!
//! | variable | means | default |
//! |---|---|---|
//! | `CHRONARCH_STORAGE_FACTOR` | so many times the usual number of rounds | 1 |
//! | `CHRONARCH_STORAGE_SEED` | another seed than the usual one | of each test |

#![allow(clippy::print_stderr, reason = "a verdict says its seed and its figures")]

mod child;
mod churn;
mod damage;
mod disk;
mod errors;
mod fault;
mod folder;
mod full;
mod kill;
mod node_errors;
mod nodes;
mod order;
mod power;
mod replicas;
mod shim;
mod trace;
mod work;
