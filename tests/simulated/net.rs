//! Addresses in the simulated network, and how often they may be dialled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chronarch::client::Dialer;
use tokio::time::Instant;
use turmoil::net::TcpStream;

pub(crate) const CLIENT_PORT: u16 = 7401;
pub(crate) const PEER_PORT: u16 = 7501;
/// Nodes that a world may ever have: an id is used once.
pub(crate) const NODES_MAX: u64 = 9;

/// Where nodes answer clients and workers, those included that are not there yet or any more.
pub(crate) fn endpoints() -> impl Iterator<Item = String> {
    (1..=NODES_MAX).map(|node| format!("n{node}:{CLIENT_PORT}"))
}

/// Dials of one process to one address within a second. Somebody who is not there is not called without a pause in
/// between.
pub(crate) struct Dials {
    begun: Instant,
    counted: Mutex<BTreeMap<String, (u64, u32)>>,
}

/// Three connections to each peer, and each is tried again after 20 ms at the soonest.
const DIALS_PER_SECOND: u32 = 150;

impl Dials {
    /// To be called in the runtime of who dials.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), counted: Mutex::default() }
    }

    pub(crate) fn count(&self, address: &str) {
        let second = self.begun.elapsed().as_secs();
        let mut dials = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, count) = dials.entry(address.to_owned()).or_insert((second, 0));
        if *of != second {
            (*of, *count) = (second, 0);
        }
        *count += 1;
        assert!(*count <= DIALS_PER_SECOND, "{address} is dialled without a pause in second {second}");
    }
}

/// Of a person, who needs no kernel: nobody stops a person.
pub(crate) fn dialer() -> Dialer {
    let dials = Arc::new(Dials::new());
    Dialer::new(move |address: Arc<str>| {
        dials.count(&address);
        async move { TcpStream::connect(address.to_string()).await }
    })
}
