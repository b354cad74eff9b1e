//! With a real server: `tests/cluster/brokers/amqp.rs`.

use futures::FutureExt;
use lapin::ErrorKind;
use lapin::message::{BasicReturnMessage, Delivery};
use lapin::protocol::{AMQPError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};

use super::*;

fn with_id(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

fn message(routing_key: &str, bytes: usize) -> Message {
    Message {
        exchange: "events".into(),
        routing_key: routing_key.into(),
        properties: with_id("1"),
        payload: vec![0; bytes],
    }
}

fn asked(ids: &[&str]) -> Vec<Asked> {
    ids.iter().map(|id| Asked { place: ("".into(), "q".into()), id: Some((*id).into()) }).collect()
}

fn came_back(id: &str) -> Option<BasicReturnMessage> {
    let mut delivery = Delivery::mock(0, "".into(), "q".into(), false, Vec::new());
    delivery.properties = with_id(id);
    Some(BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() })
}

fn closed() -> lapin::Error {
    ErrorKind::ProtocolError(AMQPError::new(AMQPSoftError::NOTFOUND.into(), "no exchange".into())).into()
}

fn silence() -> Failure {
    Failure::Unanswered("silent".to_owned())
}

#[test]
fn a_message_that_came_back_is_known_by_its_id_whichever_confirmation_brought_it() {
    let answers = vec![
        Some(Ok(Confirmation::Ack(came_back("c")))),
        Some(Ok(Confirmation::Nack(None))),
        Some(Ok(Confirmation::Ack(None))),
        Some(Ok(Confirmation::Ack(None))),
    ];
    let (ends, is_clear) = settle(&asked(&["a", "b", "c", "d"]), answers, silence);
    let place = "(exchange \"\", routing key \"q\")";
    let expected = vec![
        Ok(Left::Now),
        Err(Failure::Refused(format!("a queue did not take the message {place}"))),
        Err(Failure::Unroutable(format!("NO_ROUTE {place}"))),
        Ok(Left::Now),
    ];
    assert_eq!((ends, is_clear), (expected, true));
}

#[test]
fn what_was_not_confirmed_on_a_closed_channel_is_in_doubt_unless_it_was_alone() {
    let (ends, is_clear) = settle(&asked(&["a"]), vec![Some(Err(closed()))], silence);
    assert_eq!((ends, is_clear), (vec![Err(Failure::Refused("no exchange".to_owned()))], false));
    let answers = vec![Some(Ok(Confirmation::Ack(None))), Some(Err(closed())), None];
    let (ends, is_clear) = settle(&asked(&["a", "b", "c"]), answers, silence);
    let expected = vec![Ok(Left::Now), Err(Failure::Unanswered("no exchange".to_owned())), Err(silence())];
    assert_eq!((ends, is_clear), (expected, false));
}

#[test]
fn what_rabbitmq_closes_a_channel_for_shares_none() {
    let header = |name: &str| {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), AMQPValue::LongString("q".into()));
        with_id("1").with_headers(headers)
    };
    let lives = |text: &str| with_id("1").with_expiration(text.into());
    for (properties, shares) in [
        (with_id("1"), true),
        (BasicProperties::default().with_correlation_id("1".into()), true),
        (BasicProperties::default(), false),
        (with_id("1").with_user_id("other".into()), false),
        (header("tenant"), true),
        (header("CC"), false),
        (header("BCC"), false),
        (lives("0"), true),
        (lives("315360000000"), true),
        (lives("315360000001"), false),
        (lives("-1"), false),
        (lives("soon"), false),
    ] {
        assert_eq!(may_share(&properties), shares, "{properties:?}");
    }
}

/// How a message would go that need not wait for another.
fn way<'a>(lanes: &'a Lanes, message: &Message) -> Option<Way<'a>> {
    lanes.way(message).now_or_never()
}

fn alone<'a>(lanes: &'a Lanes, message: &Message) -> Trial<'a> {
    match way(lanes, message) {
        Some(Way::Alone(trial)) => trial,
        Some(Way::Shared) => panic!("it shares"),
        None => panic!("it waits"),
    }
}

fn shares(lanes: &Lanes, message: &Message) -> bool {
    matches!(way(lanes, message), Some(Way::Shared))
}

#[test]
fn the_first_message_to_a_place_goes_alone_and_others_wait_for_what_comes_of_it() {
    let lanes = Lanes::default();
    let first = alone(&lanes, &message("a", 10));
    let second = message("a", 10);
    let mut waits = Box::pin(lanes.way(&second));
    assert!(waits.as_mut().now_or_never().is_none(), "it knew before the first one did");
    // Another place is another matter.
    drop(alone(&lanes, &message("b", 10)));
    first.passes();
    assert!(matches!(waits.now_or_never(), Some(Way::Shared)));
    assert!(shares(&lanes, &message("a", 10)));
}

#[test]
fn where_a_message_cost_its_channel_all_go_alone_at_once_until_one_passes() {
    let lanes = Lanes::default();
    let first = alone(&lanes, &message("a", 10));
    let second = message("a", 10);
    let mut waits = Box::pin(lanes.way(&second));
    assert!(waits.as_mut().now_or_never().is_none());
    drop(first);
    let Some(Way::Alone(second)) = waits.now_or_never() else { panic!("it does not go alone") };
    let third = alone(&lanes, &message("a", 10));
    drop(second);
    third.passes();
    assert!(shares(&lanes, &message("a", 10)));
}

#[test]
fn a_message_longer_than_all_before_it_goes_alone() {
    let lanes = Lanes::default();
    alone(&lanes, &message("a", 10)).passes();
    assert!(shares(&lanes, &message("a", 10)));
    drop(alone(&lanes, &message("a", 11)));
    assert!(shares(&lanes, &message("a", 10)), "the place is as good as it was");
    alone(&lanes, &message("a", 11)).passes();
    assert!(shares(&lanes, &message("a", 11)));
}

#[test]
fn places_beyond_those_that_are_remembered_are_served_alone() {
    let lanes = Lanes::default();
    for number in 0..PLACES_MAX {
        alone(&lanes, &message(&number.to_string(), 1)).passes();
    }
    alone(&lanes, &message("one more", 1)).passes();
    drop(alone(&lanes, &message("one more", 1)));
    assert!(shares(&lanes, &message("7", 1)));
    assert_eq!(lanes.places().len(), PLACES_MAX);
}
