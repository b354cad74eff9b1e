//! Hears from the sentinels of an open connection that another server is the master.
//!
//! A master that is replaced on purpose stays one for about ten seconds more, until a sentinel makes it a replica, and what it
//! takes in that time is lost with it. So each sentinel is listened to (`+switch-master`), and the connection is left as soon
//! as one says that the name has gone elsewhere. About a second before that, the one who sees to it makes the other server
//! a master (`+failover-state-send-slaveof-noone`): from then on nothing more is given to the old one, and whoever wants the
//! connection waits for the outcome.
//!
//! Who subscribes has not heard what came before. So once it has subscribed, the sentinel that had named the master is asked
//! again. That one alone: another one may be behind, and would have the connection left over and over.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Msg, RedisError, Value};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::broker::{BROKER_CONNECT_TIMEOUT, Failure};
use super::dial::{Dialer, Named};
use super::greeting::words;

/// The master of a name is another server.
const SWITCHED: &str = "+switch-master";
/// The next master is made one at once.
const BEGINS: &str = "+failover-state-send-slaveof-noone";
/// It was not to be had.
const GIVEN_UP: &str = "-failover-abort-slave-timeout";

/// How long the outcome is waited for: sentinels look once a second whether the next master is one.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// How long a subscription that broke is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// With nothing heard for so long a sentinel is asked whether it is there.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// What sentinels say of the master of a connection, as long as this is kept.
pub(super) struct Moves {
    said: watch::Receiver<Said>,
    /// One for each sentinel; they end with this.
    _listening: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Stays,
    /// Another one is made the master, since then.
    Begins(Instant),
    Switched,
}

impl Moves {
    /// Listens to all of them; one had named the master.
    pub(super) fn of(dialer: &Arc<Dialer>, named: Named) -> Self {
        let (says, said) = watch::channel(Said::Stays);
        let mut listening = JoinSet::new();
        let says = Arc::new(says);
        for sentinel in 0..dialer.connection.servers.len() {
            let ear = Ear { dialer: Arc::clone(dialer), sentinel, named: named.clone(), says: says.clone() };
            listening.spawn(async move { ear.listens().await });
        }
        Self { said, _listening: listening }
    }

    /// Whether nothing was said yet.
    pub(super) fn are_none(&self) -> bool {
        *self.said.borrow() == Said::Stays
    }

    /// Whether the connection is to be left. Where that is about to be known it waits.
    pub(super) async fn leave(&self) -> bool {
        let mut said = self.said.clone();
        loop {
            let now = *said.borrow_and_update();
            let since = match now {
                Said::Stays => return false,
                Said::Switched => return true,
                Said::Begins(since) => since,
            };
            // Whoever has not heard the end of it by then asks.
            if !matches!(timeout_at(since + SETTLES_WITHIN, said.changed()).await, Ok(Ok(()))) {
                return true;
            }
        }
    }

    /// Waits until the master is another one.
    pub(super) async fn switched(self) {
        let mut said = self.said.clone();
        // Nobody says more than that.
        let _ = said.wait_for(|said| *said == Said::Switched).await;
    }
}

/// Listens to one sentinel.
struct Ear {
    dialer: Arc<Dialer>,
    sentinel: usize,
    named: Named,
    says: Arc<watch::Sender<Said>>,
}

impl Ear {
    async fn listens(&self) {
        loop {
            let Err(why) = self.listens_once().await;
            tracing::debug!(connection = self.dialer.connection.name, %why, "a sentinel is not heard");
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn listens_once(&self) -> Result<std::convert::Infallible, Failure> {
        let unheard = |error: RedisError| Failure::Unreachable(words(&error));
        let late = |_| Failure::Unreachable("it did not answer in time".to_owned());
        let subscribed = timeout(BROKER_CONNECT_TIMEOUT, async {
            let client = self.dialer.sentinel(self.sentinel).await?;
            let mut events = client.get_async_pubsub().await.map_err(unheard)?;
            events.subscribe(&[SWITCHED, BEGINS, GIVEN_UP]).await.map_err(unheard)?;
            if self.named.by == self.sentinel {
                let (host, port) = self.dialer.named(&client).await?;
                self.names(&host, port);
            }
            Ok(events)
        });
        let (mut asks, mut events) = subscribed.await.map_err(late)??.split();
        loop {
            match timeout(SILENT_FOR, events.next()).await {
                Ok(Some(event)) => self.hears(&event),
                Ok(None) => return Err(Failure::Unreachable("the connection broke".to_owned())),
                Err(_) => {
                    let answer = timeout(BROKER_CONNECT_TIMEOUT, asks.ping::<Value>()).await;
                    answer.map_err(late)?.map_err(unheard)?;
                }
            }
        }
    }

    fn hears(&self, event: &Msg) {
        let Ok(text) = event.get_payload::<String>() else { return };
        let master = self.dialer.master();
        let is_ours = |words: &[&str]| matches!(words, [name, host, port] if *name == master && self.named.is(host, port));
        match event.get_channel_name() {
            // NAME OLD-HOST OLD-PORT HOST PORT
            SWITCHED => {
                let words: Vec<&str> = text.split(' ').collect();
                if let [name, _, _, host, port] = words.as_slice()
                    && *name == master
                    && let Ok(port) = port.parse()
                {
                    self.names(host, port);
                }
            }
            // slave NAME HOST PORT @ MASTER MASTER-HOST MASTER-PORT
            BEGINS => {
                let words: Vec<&str> = text.split(' ').skip_while(|word| *word != "@").skip(1).collect();
                if is_ours(&words) {
                    self.says.send_if_modified(|said| {
                        let begins = *said == Said::Stays;
                        if begins {
                            *said = Said::Begins(Instant::now());
                        }
                        begins
                    });
                }
            }
            // master MASTER MASTER-HOST MASTER-PORT
            GIVEN_UP => {
                let words: Vec<&str> = text.split(' ').skip(1).collect();
                if is_ours(&words) {
                    self.says.send_if_modified(|said| {
                        let ends = matches!(*said, Said::Begins(_));
                        if ends {
                            *said = Said::Stays;
                        }
                        ends
                    });
                }
            }
            _ => {}
        }
    }

    /// Whom the sentinel names.
    fn names(&self, host: &str, port: u16) {
        if self.named.host == host && self.named.port == port {
            return;
        }
        // Another one may not have heard yet, and name the old one.
        self.dialer.asks_first(self.sentinel);
        self.says.send_replace(Said::Switched);
    }
}
