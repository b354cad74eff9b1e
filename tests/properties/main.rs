//! Properties of the pure core: of the replicated state under any commands ([`commands`]), and of state and
//! scheduler together against a reference that is written from the rules alone ([`machine`]).
//!
//! `PROPTEST_CASES=n` runs so many cases of each.

#[path = "../lab/mod.rs"]
mod lab;

mod commands;
mod machine;
mod operation;
mod reference;
mod rules;

/// How many cases of a property: `PROPTEST_CASES`, or `few`.
fn cases(few: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}
