//! x
pub mod job_file;
