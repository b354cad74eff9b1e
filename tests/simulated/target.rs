//! What attempts do: they take a while, and then they have worked, failed, or hang until someone stops them. What the
//! target has seen of them is told to the [`Truth`]; a worker that dies in between takes its attempt with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chronarch::target::{Carrier, Order, Outcome, Report, Target};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::lab::chance::Chance;
use crate::lab::invariants::Held;
use crate::truth::Truth;

/// The target; one that is sick fails nearly everything.
#[derive(Clone)]
pub(crate) struct Service {
    truth: Truth,
    chance: Arc<Mutex<Chance>>,
    sick: Arc<std::sync::atomic::AtomicBool>,
}

/// Says that the attempt is over, however it ends.
struct Begun<'a> {
    truth: &'a Truth,
    held: Held,
    /// Who reports it.
    reported_by: Option<&'a Arc<str>>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.truth.ended(self.held, self.reported_by);
    }
}

impl Service {
    pub(crate) fn new(truth: Truth, chance: Chance) -> Self {
        Self { truth, chance: Arc::new(Mutex::new(chance)), sick: Arc::default() }
    }

    pub(crate) fn set_sick(&self, sick: bool) {
        self.sick.store(sick, std::sync::atomic::Ordering::Relaxed);
    }

    /// As the worker on this machine reaches it.
    pub(crate) fn carrier(&self, machine: String) -> Carrier {
        let (service, machine) = (self.clone(), Arc::<str>::from(machine));
        Carrier::new(move |order, cancel| service.clone().carry_out(order, cancel, Arc::clone(&machine)))
    }

    /// How long the attempt takes, and whether it works.
    fn draw(&self, order: &Order) -> (Duration, bool) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let slow = match &order.target {
            Target::Http(http) => http.url.contains("slow"),
            Target::Exec(_)
            | Target::Grpc(_)
            | Target::Redis(_)
            | Target::Celery(_)
            | Target::Amqp(_)
            | Target::Nats(_) => false,
        };
        let hangs = chance.one_in(40);
        let millis = match (hangs, slow) {
            (true, _) => 60_000,
            (false, true) => chance.between(500, 6_000),
            (false, false) => chance.between(1, 120),
        };
        let sick = self.sick.load(std::sync::atomic::Ordering::Relaxed);
        let fails = chance.one_in(if sick { 1 } else { 12 });
        (Duration::from_millis(millis), !fails)
    }

    async fn carry_out(self, order: Order, cancel: CancellationToken, machine: Arc<str>) -> Report {
        if cancel.is_cancelled() {
            return Report::of(Outcome::Cancelled);
        }
        let held = (order.run_id.parse().expect("a run id"), order.fence);
        self.truth.began(held, &machine);
        let mut begun = Begun { truth: &self.truth, held, reported_by: None };
        let (takes, works) = self.draw(&order);
        let limit = order.timeout.unwrap_or(Duration::from_secs(3_600));
        let worked = timeout(limit, async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                () = sleep(takes) => Some(works),
            }
        });
        let worked = worked.await;
        begun.reported_by = Some(&machine);
        Report::of(match worked {
            Err(_) => Outcome::TimedOut,
            Ok(None) => Outcome::Cancelled,
            Ok(Some(true)) => Outcome::Succeeded,
            Ok(Some(false)) => Outcome::Failed,
        })
    }
}
