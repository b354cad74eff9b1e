//! The judge judged: a history that keeps every promise passes, and with any one broken it is named.

mod scene;

use serde_json::json;

use scene::{Scene, at, attempt, fire, good, moves, run_id, start};

use super::{Kind, check};

#[test]
fn a_history_that_keeps_every_promise_passes() {
    let verdict = check(&good().history());
    assert!(verdict.is_pass(), "{verdict}");
    assert_eq!(verdict.figures["breakers_open_across_a_takeover"], 1);
}

#[test]
fn a_history_that_saw_too_little_is_inconclusive() {
    let mut scene = good();
    scene.floors.insert("lost_attempts".to_owned(), 2);
    let verdict = check(&scene.history());
    assert!(verdict.violations.is_empty() && verdict.lacking.len() == 1, "{verdict}");
    let mut scene = good();
    scene.log.remove(4);
    let verdict = check(&scene.history());
    assert!(verdict.lacking.iter().any(|what| what.contains("no node could tell")), "{verdict}");
}

#[test]
fn what_is_late_on_a_machine_without_time_is_inconclusive_and_all_else_is_not() {
    let mut scene = good();
    scene.settled = false;
    scene.load = 9.0;
    let verdict = check(&scene.history());
    assert!(verdict.violations.is_empty() && verdict.lacking.len() == 1, "{verdict}");
    let last = scene.log.last_mut().expect("entries");
    last["now"] = at(6_000);
    assert!(check(&scene.history()).kinds().contains(&Kind::TimeWentBack));
}

/// Breaks the good history in one way, and expects it to be named.
#[track_caller]
fn names(kind: Kind, plant: impl FnOnce(&mut Scene)) {
    let mut scene = good();
    plant(&mut scene);
    let verdict = check(&scene.history());
    assert!(verdict.kinds().contains(&kind), "{kind:?} is not named: {verdict}");
}

#[test]
fn an_instant_without_a_record_is_missed() {
    names(Kind::Missed, |scene| {
        scene.find(|line| line["finished"][0]["run_id"] == run_id(3).as_str())["finished"] = json!([]);
    });
}

#[test]
fn an_instant_with_two_records_is_doubled() {
    names(Kind::Doubled, |scene| {
        let mut twin = scene.record(3).clone();
        twin["run_id"] = json!("8192-again");
        scene.find(|line| line["finished"][0]["run_id"] == run_id(3).as_str())["finished"]
            .as_array_mut()
            .expect("records")
            .push(twin);
    });
}

#[test]
fn what_comes_before_its_time_is_early() {
    names(Kind::Early, |scene| scene.record(3)["fired_at"] = at(2_990));
    names(Kind::Early, |scene| scene.effects[0]["at"] = at(-200));
}

#[test]
fn what_comes_late_in_quiet_time_is_late() {
    names(Kind::Late, |scene| {
        scene.faults.clear();
        scene.record(1)["fired_at"] = at(6_100);
    });
}

#[test]
fn a_record_of_no_instant_is_unexplained() {
    names(Kind::Unexplained, |scene| {
        scene.record(3)["scheduled_at"] = at(3_500);
        scene.record(3)["due_at"] = at(3_500);
    });
    names(Kind::Unexplained, |scene| scene.record(3)["stands_for"] = json!(7));
    names(Kind::Unexplained, |scene| scene.record(3)["reason"] = json!("overlap"));
    names(Kind::Unexplained, |scene| scene.record(3)["reason"] = json!("expired"));
    names(Kind::Unexplained, |scene| scene.record(1)["reason"] = json!("breaker_open"));
    names(Kind::Unexplained, |scene| scene.record(1)["state"] = json!("cancelled"));
}

#[test]
fn a_change_that_nobody_asked_for_is_unexplained() {
    names(Kind::UnexplainedChange, |scene| {
        scene.operations.retain(|operation| operation["operation_id"] != "three");
    });
}

#[test]
fn catch_up_beyond_the_policy_is_named() {
    names(Kind::CatchUp, |scene| {
        let catch_up = json!({"verdict": "run", "cause": "catch_up"});
        scene.command("fire", 3_000)["verdicts"] = json!([catch_up, catch_up]);
    });
}

#[test]
fn attempts_beside_each_other_are_an_overlap() {
    names(Kind::Overlap, |scene| {
        scene.log.retain(|line| line["commands"][0]["kind"] != "complete" || line["now"] != at(1_050));
    });
}

#[test]
fn more_attempts_than_retry_allows_are_named() {
    names(Kind::TooManyAttempts, |scene| {
        let mut more = scene.record(2)["attempts"].clone();
        more.as_array_mut()
            .expect("attempts")
            .extend(attempt(9, 2_060, 2_070, "failed").as_array().cloned().expect("one"));
        scene.record(2)["attempts"] = more;
    });
}

#[test]
fn a_retry_before_its_wait_is_over_is_named() {
    names(Kind::RetriedTooEarly, |scene| {
        let again = attempt(9, 2_300, 2_350, "failed").as_array().cloned().expect("one");
        scene.record(2)["attempts"].as_array_mut().expect("attempts").extend(again);
    });
}

#[test]
fn a_run_that_is_given_up_too_early_is_named() {
    names(Kind::GaveUp, |scene| scene.operations[0]["file"]["retry"] = json!({"max_attempts": 2}));
    names(Kind::GaveUp, |scene| scene.operations[0]["file"]["on_lost"] = json!("rerun"));
    names(Kind::GaveUp, |scene| {
        fails_after_a_loss(scene);
        scene.operations[0]["file"]["retry"] = json!({"max_attempts": 2});
    });
}

/// The run of the lost probe is run again, and fails: it ends as lost, for nobody knows what the first attempt did.
fn fails_after_a_loss(scene: &mut Scene) {
    scene.operations[0]["file"]["on_lost"] = json!("rerun");
    let mut again = attempt(9, 5_910, 5_950, "failed");
    again[0]["number"] = json!(2);
    let attempts = scene.record(5)["attempts"].as_array_mut().expect("attempts");
    attempts.extend(again.as_array().cloned().expect("one"));
}

#[test]
fn a_run_that_fails_after_a_loss_is_not_given_up() {
    let mut scene = good();
    fails_after_a_loss(&mut scene);
    let verdict = check(&scene.history());
    assert!(!verdict.kinds().contains(&Kind::GaveUp), "{verdict}");
}

#[test]
fn a_run_that_is_lost_without_a_loss_is_unexplained() {
    names(Kind::Unexplained, |scene| scene.record(2)["reason"] = json!("lost"));
}

#[test]
fn a_start_after_its_time_is_named() {
    names(Kind::StartedTooLate, |scene| {
        scene.operations[0]["file"]["start_within"] = json!("1ms");
    });
}

#[test]
fn a_fence_that_does_not_grow_is_named() {
    names(Kind::FenceDidNotGrow, |scene| {
        scene.command("start", 2_000)["decision"]["fence"] = json!(2);
    });
}

#[test]
fn a_report_under_a_stale_fence_that_counts_is_named() {
    names(Kind::StaleFenceAccepted, |scene| scene.command("complete", 1_000)["fence"] = json!(1));
}

#[test]
fn a_second_attempt_while_one_runs_is_named() {
    names(Kind::TwoAttemptsAtOnce, |scene| {
        let run = run_id(1);
        let line = scene.find(|line| line["now"] == at(1_005));
        line["commands"].as_array_mut().expect("commands").push(start(&run, 3, false));
        scene.command("start", 2_000)["decision"]["fence"] = json!(4);
    });
}

#[test]
fn an_attempt_after_a_loss_is_named_where_lost_means_failed() {
    names(Kind::AttemptAfterLoss, |scene| {
        scene.command("start", 6_000)["run_id"] = json!(run_id(5));
    });
}

#[test]
fn a_call_without_a_start_before_it_is_named() {
    names(Kind::EffectWithoutStart, |scene| scene.effects[2]["fence"] = json!(77));
    names(Kind::EffectWithoutStart, |scene| {
        let line = scene.find(|line| line["now"] == at(1_005));
        line["now"] = at(1_300);
    });
}

#[test]
fn a_call_that_comes_twice_is_named() {
    names(Kind::DoubledEffect, |scene| {
        let again = scene.effects[0].clone();
        scene.effects.push(again);
    });
}

#[test]
fn a_second_call_of_a_run_that_allows_one_is_named() {
    names(Kind::SecondEffect, |scene| {
        let mut again = scene.effects[0].clone();
        again["attempt"] = json!(2);
        scene.effects.push(again);
    });
}

#[test]
fn a_success_that_the_target_did_not_give_is_named() {
    names(Kind::SuccessWithoutEffect, |scene| scene.effects[1]["answer"] = json!("failed"));
}

#[test]
fn nodes_that_tell_two_stories_are_named() {
    names(Kind::DivergedReplica, |scene| {
        let mut line = scene.log[5].clone();
        line["commands"][0]["decision"]["outcome"] = json!("rejected");
        scene.other.insert(5, line);
    });
}

#[test]
fn what_a_newer_build_tells_more_of_is_no_other_story_where_two_builds_ran() {
    let more = |scene: &mut Scene| {
        let mut line = scene.log[5].clone();
        line["commands"][0]["place"] = json!("a field that the other build does not know");
        scene.other.insert(5, line);
    };
    names(Kind::DivergedReplica, more);
    let mut scene = good();
    more(&mut scene);
    scene.two_builds = true;
    let verdict = check(&scene.history());
    assert!(verdict.is_pass(), "{verdict}");
    names(Kind::DivergedReplica, |scene| {
        more(scene);
        scene.two_builds = true;
        scene.other.get_mut(&5).expect("just planted")["commands"][0]["kind"] = json!("another");
    });
}

#[test]
fn a_record_that_a_node_lacks_is_named() {
    names(Kind::LostRecord, |scene| scene.lacks.push(run_id(2)));
}

#[test]
fn time_that_goes_back_is_named() {
    names(Kind::TimeWentBack, |scene| {
        let last = scene.log.last_mut().expect("entries");
        last["now"] = at(6_000);
    });
}

#[test]
fn an_acknowledged_operation_that_is_not_there_is_named() {
    names(Kind::LostAcknowledgement, |scene| {
        scene.operations.push(json!({
            "op": "trigger", "operation_id": "nine", "invoked_at": at(100), "result": "ok", "name": "a",
        }));
    });
    names(Kind::LostAcknowledgement, |scene| {
        let told = scene.operations.iter_mut().find(|one| one["op"] == "trigger").expect("the trigger");
        told["run_id"] = json!("8192-another");
    });
}

#[test]
fn a_refused_operation_that_was_done_is_named() {
    names(Kind::RefusedYetDone, |scene| {
        let told = scene.operations.iter_mut().find(|one| one["op"] == "pause").expect("the pause");
        told["result"] = json!("refused");
    });
}

#[test]
fn an_operation_that_is_done_twice_is_named() {
    names(Kind::DoubledOperation, |scene| {
        let again = scene.command("pause_job", 6_000).clone();
        scene.entry(2, 20_100, json!([again]));
    });
}

#[test]
fn an_operation_that_is_done_before_it_is_sent_is_named() {
    names(Kind::UnexplainedChange, |scene| scene.operations[0]["invoked_at"] = at(400));
}

#[test]
fn a_call_in_the_name_of_another_job_is_named() {
    names(Kind::Unexplained, |scene| scene.effects[0]["job"] = json!("b"));
}

#[test]
fn a_breaker_that_forgets_is_named() {
    // It does not open, although it failed twice.
    names(Kind::LostBreakerTransition, |scene| {
        scene.find(|line| line["breakers"][0]["to"] == "open")["breakers"] = json!([]);
    });
    // A node shows another count than the log makes.
    names(Kind::LostBreakerTransition, |scene| scene.breakers[0]["consecutive_failures"] = json!(1));
}

#[test]
fn a_breaker_that_moves_without_cause_is_named() {
    names(Kind::UnexplainedBreakerTransition, |scene| {
        scene.find(|line| line["now"] == at(50))["breakers"] = moves("closed", "open", Some(2_050));
    });
    // It cools down for less than it says.
    names(Kind::UnexplainedBreakerTransition, |scene| {
        scene.find(|line| line["breakers"][0]["to"] == "open")["breakers"] =
            moves("closed", "open", Some(2_060));
    });
}

#[test]
fn a_call_while_the_breaker_is_open_is_named() {
    names(Kind::CallWhileOpen, |scene| {
        let line = scene.find(|line| line["now"] == at(3_005));
        line["commands"].as_array_mut().expect("commands").push(start(&run_id(3), 4, false));
        line["finished"] = json!([]);
    });
    // A probe too many.
    names(Kind::CallWhileOpen, |scene| {
        let line = scene.find(|line| line["now"] == at(5_005));
        let mut other = fire(5);
        other["decision"]["runs"][0]["run_id"] = json!("8192-other");
        let commands = line["commands"].as_array_mut().expect("commands");
        commands.extend([other, start("8192-other", 5, true)]);
    });
}

#[test]
fn a_node_that_ends_by_itself_is_named() {
    names(Kind::NodeEnded, |scene| {
        scene
            .faults
            .push(json!({"at": at(100), "id": 0, "phase": "note", "kind": "ended_by_itself", "nodes": [2]}));
    });
}

#[test]
fn what_never_comes_to_rest_is_named() {
    names(Kind::NotSettled, |scene| scene.settled = false);
}

#[test]
fn a_breaker_that_moved_on_after_the_export_is_not_compared() {
    let mut scene = good();
    scene.breakers[0]["consecutive_failures"] = json!(1);
    assert!(!check(&scene.history()).is_pass());
    scene.breakers[0]["transitions"] = json!([{"index": 1_000_000}]);
    let verdict = check(&scene.history());
    assert!(verdict.is_pass(), "{verdict}");
}
