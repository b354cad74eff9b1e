//! Messages on their way to the server, and which of them share a channel.
//!
//! Channels are not free: the same messages over hundreds of them cost a server half as much again as over eight, and
//! `lapin` goes over all channels with each frame. But what a server says of a channel it says of every message on its way
//! there: it closes a channel on which it is asked for what is not there or not allowed, and nobody can tell whether
//! it had taken the others. So only messages share that have given it no cause to do that on this connection:
//!
//! - the exchange has taken a message with that routing key before (it is there, and both may be written to); else
//!   one message tries it on a channel of its own and those to the same place wait for what comes of it;
//! - it is no longer than one that was taken (servers have a longest message of their own);
//! - it carries nothing by which RabbitMQ refuses single messages (`user_id`, the headers `CC` and `BCC`, an expiration beyond
//!   ten years), and has an id.
//!
//! All others have a channel to themselves, so a job with a wrong exchange puts no other run in doubt, each time anew.
//! Where a place that was good is gone all at once, those that were on their way with it are in doubt, and none of them
//! shares until it has been tried again.
//!
//! A message that no queue takes comes back without a number, before its confirmation. `lapin` hands it out with the
//! first confirmation that comes then, which may be another message's; so what became of the messages of a channel is
//! read when all are confirmed, and those that came back are told apart by their ids.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::super::broker::{BROKER_ANSWER_TIMEOUT, Failure, Left, Sent};
use super::Message;
use super::link::{AMQP_CHANNELS_MAX, Opened, failure};

/// Channels that messages share, at most. More than a few make nothing faster.
const SHARED_CHANNELS: usize = 8;
/// Messages on their way over one of them, at most.
const SHARED_MESSAGES: usize = 64;
const _: () = assert!(SHARED_CHANNELS * SHARED_MESSAGES <= AMQP_CHANNELS_MAX as usize);
/// Exchanges with their routing keys that a connection remembers, at most; messages to others have a channel each.
const PLACES_MAX: usize = 4_096;
/// What `rabbit_misc:check_expiry` takes.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

/// Where a message is left: the exchange and the routing key.
type Place = (ShortString, ShortString);

#[derive(Default)]
pub(super) struct Lanes {
    waiting: Mutex<Waiting>,
    places: Mutex<HashMap<Place, Known>>,
    /// Bytes of the longest message that was taken.
    longest: AtomicUsize,
}

/// Those that will share; each has its place among [`AMQP_CHANNELS_MAX`].
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Waiter>,
    /// Channels that they are sent over just now.
    running: usize,
}

struct Waiter {
    message: Message,
    sent: Sent,
    told: oneshot::Sender<Result<Left, Failure>>,
}

enum Known {
    /// The first message is on its way there.
    Tried(watch::Receiver<()>),
    Good,
    /// The last one that was alone there closed its channel, or nothing was heard of it.
    Doubtful,
}

/// How a message goes.
pub(super) enum Way<'a> {
    Shared,
    Alone(Trial<'a>),
}

/// A message alone on its channel, from which others may learn.
pub(super) struct Trial<'a> {
    lanes: &'a Lanes,
    /// None if it is not remembered.
    place: Option<Place>,
    bytes: usize,
    has_passed: bool,
    /// Those that wait for it wake when it is gone.
    _wakes: Option<watch::Sender<()>>,
}

impl Trial<'_> {
    /// The server has said what it did with the message, and the channel is still open.
    pub(super) fn passes(mut self) {
        self.has_passed = true;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.has_passed {
            self.lanes.longest.fetch_max(self.bytes, Ordering::Relaxed);
        }
        if let Some(place) = self.place.take() {
            let known = if self.has_passed { Known::Good } else { Known::Doubtful };
            self.lanes.places().insert(place, known);
        }
    }
}

/// A channel that messages share.
struct Running<'a> {
    lanes: &'a Lanes,
    is_counted: bool,
}

impl Running<'_> {
    /// What goes over it together. When nothing waits it is over, before anybody can rely on it.
    fn next(&mut self) -> Option<Vec<Waiter>> {
        let mut waiting = self.lanes.waiting();
        let many = waiting.messages.len().min(SHARED_MESSAGES);
        if many == 0 {
            waiting.running -= 1;
            self.is_counted = false;
            return None;
        }
        Some(waiting.messages.drain(..many).collect())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.lanes.waiting().running -= 1;
        }
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        locked(&self.waiting)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Place, Known>> {
        locked(&self.places)
    }

    /// How the message goes, once that is known.
    pub(super) async fn way(&self, message: &Message) -> Way<'_> {
        let bytes = message.payload.len();
        let alone =
            |place, wakes| Way::Alone(Trial { lanes: self, place, bytes, has_passed: false, _wakes: wakes });
        if !may_share(&message.properties) {
            return alone(None, None);
        }
        let place = (message.exchange.clone(), message.routing_key.clone());
        loop {
            let mut tried = {
                let mut places = self.places();
                let has_room = places.len() < PLACES_MAX;
                match places.get(&place) {
                    Some(Known::Good) if bytes <= self.longest.load(Ordering::Relaxed) => return Way::Shared,
                    // That it is too long says nothing of the place.
                    Some(Known::Good) => return alone(None, None),
                    Some(Known::Doubtful) => return alone(Some(place), None),
                    Some(Known::Tried(tried)) => tried.clone(),
                    None if !has_room => return alone(None, None),
                    None => {
                        let (wakes, tried) = watch::channel(());
                        places.insert(place.clone(), Known::Tried(tried));
                        return alone(Some(place), Some(wakes));
                    }
                }
            };
            // It is never told anything: it ends.
            let _ = tried.changed().await;
        }
    }
}

/// Whether RabbitMQ has nothing in the properties to close a channel for, and the message is told from others by them.
fn may_share(properties: &BasicProperties) -> bool {
    let lives = properties.expiration().as_ref().map(|text| text.as_str().parse::<u64>());
    let copies = |name: &str| properties.headers().as_ref().is_some_and(|it| it.inner().contains_key(name));
    id(properties).is_some()
        && properties.user_id().is_none()
        && !copies("CC")
        && !copies("BCC")
        && lives.is_none_or(|lives| lives.is_ok_and(|millis| millis <= EXPIRATION_MAX_MS))
}

/// What no other message on its way has.
fn id(properties: &BasicProperties) -> Option<&ShortString> {
    properties.message_id().as_ref().or(properties.correlation_id().as_ref())
}

/// Sends the message over a channel with others.
pub(super) async fn share(opened: &Arc<Opened>, message: Message, sent: &Sent) -> Result<Left, Failure> {
    let (told, hears) = oneshot::channel();
    {
        let mut waiting = opened.lanes.waiting();
        waiting.messages.push_back(Waiter { message, sent: sent.clone(), told });
        if waiting.running < SHARED_CHANNELS {
            waiting.running += 1;
            let opened = Arc::clone(opened);
            // It ends when nothing waits, and each step of it within a time.
            tokio::spawn(async move { run(&opened).await });
        }
    }
    let ended = || Err(Failure::Unanswered("nothing was heard of it".to_owned()));
    hears.await.unwrap_or_else(|_| ended())
}

/// Sends what waits until nothing does.
async fn run(opened: &Opened) {
    let mut running = Running { lanes: &opened.lanes, is_counted: true };
    while let Some(waiters) = running.next() {
        send(opened, waiters).await;
    }
}

async fn send(opened: &Opened, waiters: Vec<Waiter>) {
    let channel = match opened.channel_in_time().await {
        Ok(channel) => channel,
        Err(why) => {
            for waiter in waiters {
                // Whoever does not hear it has given up.
                let _ = waiter.told.send(Err(why.clone()));
            }
            return;
        }
    };
    let wanted = waiters.into_iter().filter(|waiter| !waiter.told.is_closed() && waiter.sent.begins());
    let (messages, told): (Vec<_>, Vec<_>) = wanted.map(|it| (it.message, it.told)).unzip();
    let asked: Vec<Asked> = messages.iter().map(Asked::of).collect();
    let (ends, is_clear) = publish(opened, &channel, &asked, messages).await;
    if is_clear {
        opened.put_back(channel);
    } else {
        let mut known = opened.lanes.places();
        for Asked { place, .. } in asked {
            known.insert(place, Known::Doubtful);
        }
    }
    for (told, end) in told.into_iter().zip(ends) {
        let _ = told.send(end);
    }
}

/// What of a message is needed when the server has spoken of it.
struct Asked {
    place: Place,
    id: Option<ShortString>,
}

impl Asked {
    fn of(message: &Message) -> Self {
        let place = (message.exchange.clone(), message.routing_key.clone());
        Self { place, id: id(&message.properties).cloned() }
    }
}

/// What became of a message that has the channel to itself, and whether it is not on its way any more.
pub(super) async fn publish_alone(
    opened: &Opened,
    channel: &Channel,
    message: Message,
) -> (Result<Left, Failure>, bool) {
    let asked = [Asked::of(&message)];
    let (mut ends, is_clear) = publish(opened, channel, &asked, vec![message]).await;
    (ends.pop().expect("one end for one message"), is_clear)
}

/// What became of each of the messages, and whether the channel has none on its way any more.
async fn publish(
    opened: &Opened,
    channel: &Channel,
    asked: &[Asked],
    messages: Vec<Message>,
) -> (Vec<Result<Left, Failure>>, bool) {
    let mut answers: Vec<Option<lapin::Result<Confirmation>>> = asked.iter().map(|_| None).collect();
    let mut sent: FuturesUnordered<_> = messages
        .into_iter()
        .enumerate()
        .map(async |(at, message)| (at, published(channel, message).await))
        .collect();
    let all = async {
        while let Some((at, answer)) = sent.next().await {
            answers[at] = Some(answer);
        }
    };
    // Those that are not confirmed by then are silent.
    let _ = timeout(BROKER_ANSWER_TIMEOUT, all).await;
    settle(asked, answers, || opened.silence())
}

async fn published(channel: &Channel, message: Message) -> lapin::Result<Confirmation> {
    let Message { exchange, routing_key, properties, payload } = message;
    // Comes back when no queue takes it.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(exchange, routing_key, options, &payload, properties).await?.await
}

fn settle(
    asked: &[Asked],
    answers: Vec<Option<lapin::Result<Confirmation>>>,
    silence: impl Fn() -> Failure,
) -> (Vec<Result<Left, Failure>>, bool) {
    let is_alone = asked.len() == 1;
    let mut came_back = HashMap::new();
    for answer in answers.iter().flatten().flatten() {
        if let Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) = answer {
            came_back.insert(id(&message.delivery.properties).cloned(), message.reply_text.clone());
        }
    }
    let mut is_clear = true;
    let end = |asked: &Asked, answer: Option<lapin::Result<Confirmation>>, is_clear: &mut bool| {
        let (exchange, routing_key) = (asked.place.0.as_str(), asked.place.1.as_str());
        let place = || format!("(exchange {exchange:?}, routing key {routing_key:?})");
        let why = if is_alone { came_back.values().next() } else { came_back.get(&asked.id) };
        match (answer, why) {
            (Some(Ok(Confirmation::Ack(_) | Confirmation::Nack(_))), Some(why)) => {
                Err(Failure::Unroutable(format!("{why} {}", place())))
            }
            (Some(Ok(Confirmation::Ack(_))), None) => Ok(Left::Now),
            (Some(Ok(Confirmation::Nack(_))), None) => {
                Err(Failure::Refused(format!("a queue did not take the message {}", place())))
            }
            (other, _) => {
                *is_clear = false;
                Err(match other {
                    // Of one that was alone on it, a channel that is closed says that it was not taken.
                    Some(Err(error)) if is_alone => failure(&error),
                    Some(Err(error)) => match failure(&error) {
                        Failure::Refused(why) => Failure::Unanswered(why),
                        why => why,
                    },
                    Some(Ok(_)) => Failure::Unanswered("the channel confirms nothing".to_owned()),
                    None => silence(),
                })
            }
        }
    };
    let ends = asked.iter().zip(answers).map(|(asked, answer)| end(asked, answer, &mut is_clear)).collect();
    (ends, is_clear)
}

#[cfg(test)]
mod tests;
