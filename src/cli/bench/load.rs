//! The load of failover and hand-over: 20 jobs `every: 200ms`, so that one is due every 10 ms, and an
//! account of which none may be lost and none doubled.

use std::time::Duration;

use super::account::{Account, Expected, Tally};
use super::error::BenchError;
use super::jobs;
use super::stage::Stage;
use super::stats::Sample;
use crate::state::time::Timestamp;

const JOBS: u32 = 20;
const PERIOD: Duration = Duration::from_millis(200);
/// How long the last requests are waited for. An attempt that was lost with its node runs again when its
/// lease of 5 s has ended; what is missing after this is lost.
const SETTLE: Duration = Duration::from_secs(60);
/// How long it is listened on when all have arrived: a doubled attempt may come as late as the lease ends.
const LISTEN: Duration = Duration::from_secs(8);

/// The load while it runs, and what came of it.
#[derive(Debug)]
pub(super) struct Load {
    account: Account,
    until: Timestamp,
}

impl Load {
    /// Registers the jobs and waits for the first requests.
    pub(super) async fn begin(stage: &Stage) -> Result<Self, BenchError> {
        let next = stage.apply(jobs::lossless(JOBS, PERIOD, &stage.receiver.url())).await?;
        let latest = next.iter().max().copied().unwrap_or_default();
        let account = Account::new(Expected::new(next, PERIOD));
        stage.reach(latest).await?;
        Ok(Self { account, until: Timestamp::MIN })
    }

    /// Ends what counts, and waits for what is missing.
    pub(super) async fn end(&mut self, stage: &Stage) -> Result<(), BenchError> {
        self.until = stage.clock.now();
        self.account.close(self.until);
        let mark = settle(stage, &mut self.account, SETTLE).await;
        stage.pass(stage.clock.now().plus(LISTEN)).await;
        stage.receiver.look(mark, |late| late.iter().for_each(|arrival| self.account.note(arrival)));
        stage.all_noted()
    }

    /// The account.
    pub(super) fn tally(&self) -> Tally {
        self.account.tally()
    }

    /// How late each instant's first request came.
    pub(super) fn lateness(&self) -> Sample {
        self.account.lateness(Timestamp::MIN, self.until).collect()
    }

    /// The same for instants in a part of the time, without its end.
    pub(super) fn lateness_in(&self, from: Timestamp, until: Timestamp) -> Sample {
        self.account.lateness(from, until).collect()
    }
}

/// Takes down all requests until the closed account is complete, or `limit` is over; how many there were.
pub(super) async fn settle(stage: &Stage, account: &mut Account, limit: Duration) -> usize {
    let mut noted = 0;
    let all = stage.receiver.wait(0, limit, |new| {
        noted += new.len();
        new.iter().for_each(|arrival| account.note(arrival));
        account.is_complete().then_some(())
    });
    // What is missing when the time is over is in the account.
    let _ = all.await;
    noted
}
