//! x
pub mod limits;
pub mod problem;
pub mod spec;
