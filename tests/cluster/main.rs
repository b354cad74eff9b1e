//! End to end: real node processes, real workers, real requests; killed, paused and restarted.
//!
//! What counts is what arrived at the receiving server, not what the cluster says of itself. Every wait
//! is for a condition, with a deadline. The folder of a failed test is kept, and its path printed.

#[path = "../lab/chance.rs"]
mod chance;

mod accounted;
mod breakers;
mod brokers;
mod calendars;
mod chains;
mod durability;
mod every_node;
mod evidence;
mod fleet;
mod grpc;
mod harness;
mod levels;
mod linear;
mod logs;
mod lost;
mod membership;
mod namespaces;
mod own_workers;
mod pages;
mod receiver;
mod resting;
mod staff;
mod takeover;
mod tzdata;
mod workers;
