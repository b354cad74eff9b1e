//! The leader's side of a reading: attempt after attempt, each from the worker, or from the record.
//!
//! Asking is repeated while the attempt runs and is followed: a worker that has not begun, has lost its connection or
//! looks for a new leader will answer in a while. Of an attempt that has ended, a worker that is not heard of within
//! [`limits::OUTPUT_AWAY`] counts as away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;

use super::record::{self, Wanted};
use super::{Asked, Awaited, Client};
use crate::api::{Api, limits, status};
use crate::pb::v1 as pb;
use crate::state::run::{Attempt, Run, RunId};

/// The pause before a worker is asked again.
const AGAIN: Duration = Duration::from_millis(300);

pub(super) struct Serving {
    api: Api,
    run: RunId,
    request: pb::ReadOutputRequest,
    term: u64,
    client: Client,
}

/// What came of asking a worker once.
enum Came {
    /// The last message about the attempt is sent.
    Over,
    /// The worker has nothing of it.
    Forgotten,
    /// It is not connected, or did not answer.
    Away,
    /// It began to answer, and broke off.
    Broken,
}

/// How far the reading of one attempt is.
struct Place {
    number: u32,
    worker: Arc<str>,
    fence: u64,
    wanted: Wanted,
    /// When a worker that is away was first missed.
    missed_at: Option<Instant>,
}

impl Serving {
    pub(super) fn new(
        api: Api,
        run: RunId,
        request: pb::ReadOutputRequest,
        term: u64,
        client: Client,
    ) -> Self {
        Self { api, run, request, term, client }
    }

    /// Serves until all is read, the client has gone, or this node no longer leads.
    pub(super) async fn run(self) {
        let mut leadership = self.api.shared.raft.leadership();
        let term = self.term;
        let served = tokio::select! {
            () = self.client.closed() => return,
            _ = leadership.wait_for(|now| !now.is_leader || now.term != term) => Err(status::not_leader(None)),
            served = self.attempts() => served,
        };
        if let Err(status) = served {
            // It may have gone meanwhile.
            let _ = self.client.send(Err(status)).await;
        }
    }

    async fn attempts(&self) -> Result<(), Status> {
        // So that a run that was acknowledged is found.
        self.api.barrier().await?;
        let mut number = self.request.attempt;
        let (mut offset, mut tail_lines) = (self.request.offset, self.request.tail_lines);
        while let Some(attempt) = self.attempt(number).await? {
            let wanted = Wanted { offset, tail_lines, stream: self.request.stream() };
            self.read(&attempt, wanted).await?;
            if !self.request.later_attempts {
                break;
            }
            number = attempt.number.saturating_add(1);
            (offset, tail_lines) = (0, 0);
        }
        Ok(())
    }

    /// The attempt of this number, or the newest for 0; waits for it where it is followed. None when there is none, and
    /// will be none.
    async fn attempt(&self, number: u32) -> Result<Option<Attempt>, Status> {
        let find = |run: &Run| match number {
            0 => run.attempts.last().cloned(),
            number => run.attempts.iter().find(|attempt| attempt.number == number).cloned(),
        };
        let mut states = self.api.shared.raft.watch_state();
        loop {
            let state = states.borrow_and_update().clone();
            let run = self.api.find_run(&state, self.run).await?;
            let run = run.ok_or_else(|| status::no_run(&self.run.to_string()))?;
            if run.spread.is_some() {
                return Err(in_parts(&run));
            }
            if let Some(attempt) = find(&run) {
                return Ok(Some(attempt));
            }
            // A reader that goes on with the attempt behind the last one has not asked for it.
            let is_asked_for = number > 0 && number == self.request.attempt && !self.request.later_attempts;
            if run.has_ended() || !self.request.follow {
                return if is_asked_for { Err(no_attempt(number, &run)) } else { Ok(None) };
            }
            let changed = states.wait_for(|now| now.run(self.run).is_none_or(|now| *now != run));
            changed.await.map_err(|_| Status::unavailable("the node is ending"))?;
        }
    }

    async fn read(&self, attempt: &Attempt, wanted: Wanted) -> Result<(), Status> {
        let (number, worker, fence) = (attempt.number, attempt.worker.clone(), attempt.fence);
        let mut place = Place { number, worker, fence, wanted, missed_at: None };
        loop {
            let came = self.ask(&mut place).await?;
            let Some(now) = self.attempt(number).await? else { return Ok(()) };
            let has_ended = record::has_ended(&now);
            let state = match came {
                Came::Over => return Ok(()),
                Came::Forgotten if has_ended => Some(pb::OutputState::Forgotten),
                Came::Away | Came::Broken if has_ended && place.is_given_up(&now) => {
                    Some(pb::OutputState::Away)
                }
                Came::Forgotten if !self.request.follow => Some(pb::OutputState::Running),
                Came::Away if !self.request.follow && !has_ended => Some(pb::OutputState::Away),
                Came::Forgotten | Came::Away | Came::Broken => None,
            };
            match state {
                Some(state) if has_ended => {
                    let told = record::tell(&now, place.wanted, state);
                    return self.say(&place, told.pieces, told.state).await;
                }
                Some(state) => return self.say(&place, Vec::new(), state).await,
                None => sleep(AGAIN).await,
            }
        }
    }

    /// Asks the worker once and passes on what it sends.
    async fn ask(&self, place: &mut Place) -> Result<Came, Status> {
        let Some(ask) = self.api.shared.ask_output.get() else { return Ok(Came::Away) };
        let id = self.api.shared.clock.clock().random_id();
        let awaited = self.api.shared.outputs.expect(id.clone(), place.worker.clone());
        let awaited = awaited.ok_or_else(|| {
            let most = limits::OUTPUT_READS_PER_WORKER;
            Status::resource_exhausted(format!("{most} read the output of worker {} already", place.worker))
        })?;
        let message = pb::ReadOutput {
            id,
            run_id: self.request.run_id.clone(),
            fence: place.fence,
            offset: place.wanted.offset,
            tail_lines: place.wanted.tail_lines,
            stream: place.wanted.stream.into(),
            follow: self.request.follow,
        };
        match ask(place.worker.clone(), message).await {
            Asked::Yes => self.pass_on(place, awaited).await,
            Asked::Away => Ok(Came::Away),
            Asked::KeepsNone => Ok(Came::Forgotten),
        }
    }

    async fn pass_on(&self, place: &mut Place, mut awaited: Awaited) -> Result<Came, Status> {
        match timeout(limits::OUTPUT_ANSWER, awaited.sent.recv()).await {
            Ok(Some(_first)) => place.missed_at = None,
            // It is connected, but cannot be reached.
            Ok(None) | Err(_) => return Ok(Came::Away),
        }
        let mut states = self.api.shared.raft.watch_state();
        let (run, fence) = (self.run, place.fence);
        let ended = async {
            let ended = states.wait_for(|now| {
                now.run(run).and_then(|run| run.running()).is_none_or(|attempt| attempt.fence != fence)
            });
            drop(ended.await);
        };
        tokio::pin!(ended);
        let mut give_up_at = None;
        loop {
            let given_up = async {
                match give_up_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let sent = tokio::select! {
                sent = awaited.sent.recv() => sent,
                () = &mut ended, if give_up_at.is_none() => {
                    give_up_at = Some(Instant::now() + limits::OUTPUT_AWAY);
                    continue;
                }
                // The cluster has ended the attempt, and its worker has not noticed.
                () = given_up => {
                    self.say(place, Vec::new(), pb::OutputState::Ended).await?;
                    return Ok(Came::Over);
                }
            };
            let Some(sent) = sent else { return Ok(Came::Broken) };
            give_up_at = give_up_at.map(|_| Instant::now() + limits::OUTPUT_AWAY);
            if let Some(last) = sent.pieces.last() {
                let length = (last.data.len() as u64).saturating_add(last.dropped_bytes);
                place.wanted.offset = last.offset.saturating_add(length);
                place.wanted.tail_lines = 0;
            }
            match sent.state() {
                pb::OutputState::Unspecified if sent.pieces.is_empty() => {}
                pb::OutputState::Unspecified => {
                    self.say(place, sent.pieces, pb::OutputState::Unspecified).await?
                }
                pb::OutputState::Forgotten => return Ok(Came::Forgotten),
                // It was asked before the attempt had ended.
                pb::OutputState::Running if self.request.follow => return Ok(Came::Broken),
                state => {
                    self.say(place, sent.pieces, state).await?;
                    return Ok(Came::Over);
                }
            }
        }
    }

    async fn say(
        &self,
        place: &Place,
        pieces: Vec<pb::OutputPiece>,
        state: pb::OutputState,
    ) -> Result<(), Status> {
        let (attempt, worker) = (place.number, place.worker.to_string());
        let response = pb::ReadOutputResponse { attempt, pieces, state: state.into(), worker };
        self.client.send(Ok(response)).await.map_err(|_| Status::cancelled("the client has gone"))
    }
}

impl Place {
    /// Whether a worker that does not answer is waited for no longer. Where the record has everything there is nothing
    /// to wait for.
    fn is_given_up(&mut self, attempt: &Attempt) -> bool {
        let missed_at = *self.missed_at.get_or_insert_with(Instant::now);
        record::is_whole(attempt) || missed_at.elapsed() >= limits::OUTPUT_AWAY
    }
}

fn in_parts(run: &Run) -> Status {
    let reason = format!("run {} has a part for each worker, and no output of its own", run.id);
    status::hinted(
        Status::failed_precondition(reason),
        &format!("`chronarch run list --parent {}` names them", run.id),
    )
}

fn no_attempt(number: u32, run: &Run) -> Status {
    let there = match run.attempts.as_slice() {
        [] => "none was started".to_owned(),
        [.., last] => format!("the last one is {}", last.number),
    };
    Status::not_found(format!("run {} has no attempt {number}: {there}", run.id))
}
