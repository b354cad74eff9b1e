//! The input and output of a running process.
//!
//! Standard output and standard error are one pipe, so that their order is the order of writing. All progress is
//! kept in [`Pipes`], never in a future: pumping can be dropped and taken up again without losing a byte.

use std::io::{self, PipeReader};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::ChildStdin;

use crate::target::tail::Tail;

/// Read at once, at most: as much as a Linux pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) struct Pipes {
    output: Option<Receiver>,
    input: Option<ChildStdin>,
    unfed: Vec<u8>,
    fed_bytes: usize,
    chunk: Vec<u8>,
    tail: Tail,
}

impl Pipes {
    /// `unfed` is what the process is to read before the end of its input.
    pub(super) fn new(output: PipeReader, input: Option<ChildStdin>, unfed: Vec<u8>) -> io::Result<Self> {
        let output = Some(Receiver::from_owned_fd(output.into())?);
        Ok(Self { output, input, unfed, fed_bytes: 0, chunk: vec![0; CHUNK_BYTES], tail: Tail::default() })
    }

    /// Moves bytes until the input is fed and everyone has closed the output.
    pub(super) async fn pump(&mut self) {
        while self.input.is_some() || self.output.is_some() {
            tokio::select! {
                // the input comes first because it is bounded: an endless output cannot starve it, nor it the output
                biased;
                put = write(&mut self.input, &self.unfed[self.fed_bytes..]) => match put {
                    Ok(bytes) if bytes > 0 => self.fed_bytes += bytes,
                    // fed, or nobody reads any more; dropping it is what closes it
                    Ok(_) | Err(_) => self.input = None,
                },
                got = read(&mut self.output, &mut self.chunk) => match got {
                    // a pipe that cannot be read has no more to say either
                    Ok(0) | Err(_) => self.output = None,
                    Ok(bytes) => self.tail.push(&self.chunk[..bytes]),
                },
            }
        }
    }

    /// Gives up what is not fed yet: nobody is left who ought to read it.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    pub(super) fn into_tail(self) -> Tail {
        self.tail
    }
}

async fn read(output: &mut Option<Receiver>, chunk: &mut [u8]) -> io::Result<usize> {
    match output {
        Some(output) => output.read(chunk).await,
        None => std::future::pending().await,
    }
}

/// 0 when there is nothing left to write.
async fn write(input: &mut Option<ChildStdin>, unfed: &[u8]) -> io::Result<usize> {
    match input {
        Some(_) if unfed.is_empty() => Ok(0),
        Some(input) => input.write(unfed).await,
        None => std::future::pending().await,
    }
}
