//! The input and output of a running process.
//!
//! Standard output and standard error are one pipe, so that their order is the order of writing, unless the worker's
//! operator wants them apart: then the order between the two is that of reading. All progress is kept in [`Pipes`],
//! never in a future: pumping can be dropped and taken up again without losing a byte.

use std::io::{self, ErrorKind, PipeReader};

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::ChildStdin;

use crate::spool::{Sink, Stream};
use crate::target::tail::Tail;

/// Read at once, at most: as much as a Linux pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) struct Pipes {
    outputs: [Output; 2],
    input: Option<ChildStdin>,
    unfed: Vec<u8>,
    fed_bytes: usize,
    chunk: Vec<u8>,
    tail: Tail,
    sink: Sink,
}

/// What one pipe carries; none once everyone has closed it.
struct Output {
    stream: Stream,
    pipe: Option<Receiver>,
}

/// The reading ends of a process's output.
pub(super) enum Readers {
    /// Standard output and standard error in one.
    Both(PipeReader),
    Apart {
        stdout: PipeReader,
        stderr: PipeReader,
    },
}

impl Pipes {
    /// `unfed` is what the process is to read before the end of its input; `sink` is told all that it writes.
    pub(super) fn new(
        readers: Readers,
        input: Option<ChildStdin>,
        unfed: Vec<u8>,
        sink: Sink,
    ) -> io::Result<Self> {
        let open = |stream, reader: Option<PipeReader>| {
            let pipe = reader.map(|reader| Receiver::from_owned_fd(reader.into())).transpose()?;
            Ok::<_, io::Error>(Output { stream, pipe })
        };
        let outputs = match readers {
            Readers::Both(reader) => [open(Stream::Both, Some(reader))?, open(Stream::Stderr, None)?],
            Readers::Apart { stdout, stderr } => {
                [open(Stream::Stdout, Some(stdout))?, open(Stream::Stderr, Some(stderr))?]
            }
        };
        let (chunk, tail) = (vec![0; CHUNK_BYTES], Tail::default());
        Ok(Self { outputs, input, unfed, fed_bytes: 0, chunk, tail, sink })
    }

    /// Moves bytes until the input is fed and everyone has closed the output.
    pub(super) async fn pump(&mut self) {
        while self.input.is_some() || self.outputs.iter().any(|output| output.pipe.is_some()) {
            tokio::select! {
                // the input comes first because it is bounded: an endless output cannot starve it, nor it the output
                biased;
                put = write(&mut self.input, &self.unfed[self.fed_bytes..]) => match put {
                    Ok(bytes) if bytes > 0 => self.fed_bytes += bytes,
                    // fed, or nobody reads any more; dropping it is what closes it
                    Ok(_) | Err(_) => self.input = None,
                },
                (place, got) = read(&self.outputs, &mut self.chunk, &mut self.sink) => match got {
                    // a pipe that cannot be read has no more to say either
                    Ok(0) | Err(_) => self.outputs[place].pipe = None,
                    Ok(bytes) => {
                        self.tail.push(&self.chunk[..bytes]);
                        self.sink.write(self.outputs[place].stream, &self.chunk[..bytes]);
                    }
                },
            }
        }
    }

    /// Gives up what is not fed yet: nobody is left who ought to read it.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// The end of the output; what was kept of it is complete from here on.
    pub(super) fn into_tail(self) -> Tail {
        self.tail
    }
}

/// What comes first, and from which pipe; nothing is read before the sink has room for it.
async fn read(outputs: &[Output; 2], chunk: &mut [u8], sink: &mut Sink) -> (usize, io::Result<usize>) {
    sink.ready().await;
    loop {
        let place = tokio::select! {
            () = outputs[0].readable() => 0,
            () = outputs[1].readable() => 1,
        };
        match outputs[place].pipe.as_ref().map_or(Ok(0), |pipe| pipe.try_read(chunk)) {
            // It only seemed so; to wait for this one alone would forget the other.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            got => return (place, got),
        }
    }
}

impl Output {
    /// Resolves when there is something to read, or an error; never once the pipe is closed.
    async fn readable(&self) {
        match &self.pipe {
            // An error is met again by whoever reads.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
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
