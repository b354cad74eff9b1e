//! A server on a port of its own that notes each request and answers as its path says:
//! `/ok` 200, `/fail` 500, `/switch` as [`Receiver::set_broken`] says, `/slow/MS` 200 after that long, `/big` 200 with more output than is kept, after a second.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::any;
use chronarch::state::time::Timestamp;

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) job: String,
    pub(crate) run_id: String,
    pub(crate) scheduled_at: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) fence: u64,
    headers: HeaderMap,
}

impl Hit {
    /// What the request said of itself.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Default)]
struct Inner {
    hits: Mutex<Vec<Hit>>,
    broken: AtomicBool,
}

/// The server; it ends with the test.
#[derive(Clone)]
pub(crate) struct Receiver {
    address: String,
    inner: Arc<Inner>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let inner = Arc::<Inner>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let router = Router::new()
            .route("/ok", any(ok))
            .route("/fail", any(fail))
            .route("/switch", any(switch))
            .route("/slow/{ms}", any(slow))
            .route("/big", any(big))
            .with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, inner }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.inner.broken.store(broken, Ordering::SeqCst);
    }

    pub(crate) fn hits(&self) -> Vec<Hit> {
        self.inner.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hits_of(&self, job: &str) -> Vec<Hit> {
        self.hits().into_iter().filter(|hit| hit.job == job).collect()
    }

    /// First attempts by instant.
    pub(crate) fn instants_of(&self, job: &str) -> BTreeMap<i64, Vec<Hit>> {
        let mut instants: BTreeMap<i64, Vec<Hit>> = BTreeMap::new();
        for hit in self.hits_of(job) {
            instants.entry(hit.scheduled_at.millis()).or_default().push(hit);
        }
        instants
    }
}

fn note(inner: &Inner, headers: &HeaderMap) {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let hit = Hit {
        job: text("chronarch-job"),
        run_id: text("chronarch-run-id"),
        scheduled_at: text("chronarch-scheduled-at").parse().expect("an instant"),
        attempt: text("chronarch-attempt").parse().expect("a number"),
        fence: text("chronarch-fence").parse().expect("a number"),
        headers: headers.clone(),
    };
    assert_eq!(text("idempotency-key"), hit.run_id, "the run id is the idempotency key");
    inner.hits.lock().unwrap_or_else(PoisonError::into_inner).push(hit);
}

async fn ok(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> &'static str {
    note(&inner, &headers);
    "fine"
}

async fn fail(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> (StatusCode, &'static str) {
    note(&inner, &headers);
    (StatusCode::INTERNAL_SERVER_ERROR, "broken")
}

async fn switch(state: State<Arc<Inner>>, headers: HeaderMap) -> (StatusCode, &'static str) {
    if state.broken.load(Ordering::SeqCst) {
        return fail(state, headers).await;
    }
    (StatusCode::OK, ok(state, headers).await)
}

async fn big(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> String {
    note(&inner, &headers);
    tokio::time::sleep(Duration::from_secs(1)).await;
    "x".repeat(8 << 10)
}

async fn slow(State(inner): State<Arc<Inner>>, Path(ms): Path<u64>, headers: HeaderMap) -> &'static str {
    note(&inner, &headers);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "at last"
}
