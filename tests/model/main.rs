//! The dispatch protocol, every interleaving of it: commit `Start`, order, effect, report, `Complete` under
//! the fence; leaders that crash or are deposed and go on with their memory and their connections; workers
//! that die or are wrongly given up; orders and reports that are lost, doubled and late; answers to
//! proposals that never come.
//!
//! Shipped code: `state` whole (every entry of the model's log goes through `State::apply`) and
//! `scheduler::plan`, which says what the leader proposes. Models: the log ([`world`]), the leader's sessions
//! and orders, the worker's ledger. There is no time but "the second instant has come": what a lease or a
//! timeout would say is said at any moment, so nothing shown here rests on a clock.
//!
//! A search ends when all states are seen; how many faults may happen is bounded ([`Budget`]). `MODEL=long`
//! searches with wider bounds. Each rule of the protocol is also broken once ([`Fault`]), and the search must
//! find what that does: a model that cannot fail shows nothing.

#[path = "../lab/mod.rs"]
mod lab;

mod properties;
mod step;
mod turn;
mod world;

use chronarch::state::spec::OnLost;
use stateright::{Checker, HasDiscoveries, Model};
use world::{Budget, Fault, Protocol};

/// Threads of a search.
const THREADS: usize = 2;

fn budgets() -> Vec<Budget> {
    let long = std::env::var("MODEL").is_ok_and(|form| form == "long");
    if long { Budget::LONG.to_vec() } else { Budget::SHORT.to_vec() }
}

/// Searches all states, and returns how many there are.
///
/// # Panics
/// When a promise does not hold, with the shortest way there; when something that must be possible is not.
fn search(protocol: Protocol) -> usize {
    let told = format!("{protocol:?}");
    let checker = protocol.checker().threads(THREADS).spawn_bfs().join();
    let found = checker.discoveries();
    for property in checker.model().properties() {
        match found.get(property.name) {
            Some(path) if property.expectation.discovery_is_failure() => {
                panic!("{told}: it does not hold that {}:\n{}", property.name, told_path(path));
            }
            None if !property.expectation.discovery_is_failure() => {
                panic!("{told}: it never happens that {}", property.name);
            }
            Some(_) | None => {}
        }
    }
    checker.unique_state_count()
}

fn told_path(path: &stateright::Path<world::World, step::Step>) -> String {
    let steps = path.clone().into_actions();
    steps.iter().map(|step| format!("  {step:?}\n")).collect()
}

#[test]
fn with_on_lost_fail_an_effect_happens_at_most_once() {
    for budget in budgets() {
        let states = search(Protocol::new(OnLost::Fail, budget, Fault::None));
        println!("on_lost: fail, {budget:?}: {states} states");
    }
}

#[test]
fn with_on_lost_rerun_an_effect_happens_at_least_once() {
    for budget in budgets() {
        let states = search(Protocol::new(OnLost::Rerun, budget, Fault::None));
        println!("on_lost: rerun, {budget:?}: {states} states");
    }
}

#[test]
fn each_broken_rule_of_the_protocol_is_found() {
    for (fault, on_lost, budget, promise) in Fault::ALL {
        let protocol = Protocol::new(on_lost, budget, fault);
        let checker = protocol
            .checker()
            .threads(THREADS)
            .finish_when(HasDiscoveries::AnyOf([promise].into()))
            .spawn_bfs()
            .join();
        let path = checker.discovery(promise).unwrap_or_else(|| {
            let states = checker.unique_state_count();
            panic!("{fault:?} breaks nothing in {states} states, though it should that {promise}")
        });
        println!("{fault:?} breaks that {promise}:\n{}", told_path(&path));
    }
}
