//! libFuzzer on the target `snapshot_file`.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::run("snapshot_file", bytes));
