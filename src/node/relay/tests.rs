//! A relay between a worker and a leader of the tests' making, over real connections.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures::Stream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response};

use super::*;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::pb::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use crate::raft::NodeAddress;

/// Beyond this something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A stream as the leader sees it.
struct AtLeader {
    hello: pb::Hello,
    inbound: Streaming<pb::WorkerMessage>,
    outbox: Outbox,
}

enum Role {
    Leads(mpsc::Sender<AtLeader>),
    Carries(Relay),
    Refuses(Status),
}

#[tonic::async_trait]
impl WorkerService for Role {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderMessage, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let from = request.remote_addr();
        let mut inbound = request.into_inner();
        let Some(FromWorker::Hello(hello)) = inbound.message().await?.and_then(|first| first.kind) else {
            panic!("the first message is a hello");
        };
        let (outbox, outgoing) = mpsc::channel(8);
        match self {
            Self::Leads(sessions) => {
                sessions.send(AtLeader { hello, inbound, outbox }).await.expect("the test listens");
            }
            Self::Carries(relay) => {
                let leader = relay.leader_for(&hello).expect("it carries this");
                tokio::spawn(relay.clone().carry(leader, hello, from, inbound, outbox));
            }
            Self::Refuses(status) => return Err(status.clone()),
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        Err(Status::unimplemented("nobody asks for this"))
    }

    async fn report_tasks(
        &self,
        _: Request<pb::ReportTasksRequest>,
    ) -> Result<Response<pb::ReportTasksResponse>, Status> {
        Err(Status::unimplemented("nobody asks for this"))
    }

    async fn drain_worker(&self, _: Request<pb::DrainWorkerRequest>) -> Result<Response<pb::Worker>, Status> {
        Err(Status::unimplemented("nobody asks for this"))
    }

    async fn resume_worker(
        &self,
        _: Request<pb::ResumeWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        Err(Status::unimplemented("nobody asks for this"))
    }

    async fn send_output(
        &self,
        _: Request<Streaming<pb::OutputSent>>,
    ) -> Result<Response<pb::SendOutputResponse>, Status> {
        Err(Status::unimplemented("nobody sends any"))
    }
}

async fn serve(role: Role) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = tonic::transport::Server::builder().add_service(WorkerServiceServer::new(role));
    let serving = server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    (address, tokio::spawn(async move { serving.await.expect("serves") }))
}

fn leads(id: u64, address: &str) -> Leadership {
    let node = NodeAddress { peer_address: "127.0.0.1:1".to_owned(), address: address.to_owned() };
    Leadership { term: 3, leader: Some((id, node)), is_leader: false }
}

/// Node 2, which carries streams to whoever leads.
struct Bench {
    leadership: watch::Sender<Leadership>,
    relay: Relay,
    address: String,
}

impl Bench {
    async fn start(leader: Leadership) -> Self {
        let (sender, leadership) = watch::channel(leader);
        let relay = Relay { node_id: 2, leadership, dialer: Dialer::tcp(), trunks: Arc::default() };
        let (address, _) = serve(Role::Carries(relay.clone())).await;
        Self { leadership: sender, relay, address }
    }

    async fn worker(&self, name: &str) -> AtWorker {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        let mut client = WorkerServiceClient::connect(endpoint).await.expect("a connection");
        let (outgoing, queued) = mpsc::channel(8);
        let hello = pb::Hello { worker: name.to_owned(), protocol: 9, ..pb::Hello::default() };
        outgoing.send(say(FromWorker::Hello(hello))).await.expect("room");
        let incoming = within(client.serve(ReceiverStream::new(queued))).await.map(Response::into_inner);
        AtWorker { outgoing, incoming: incoming.expect("a stream") }
    }
}

/// A stream as the worker sees it.
struct AtWorker {
    outgoing: mpsc::Sender<pb::WorkerMessage>,
    incoming: Streaming<pb::LeaderMessage>,
}

impl AtWorker {
    async fn hear(&mut self) -> Result<Option<FromLeader>, Status> {
        Ok(within(self.incoming.message()).await?.and_then(|message| message.kind))
    }

    /// Whom the node names at the end of the stream.
    async fn is_told_to_leave(&mut self) -> String {
        let Ok(Some(FromLeader::NotLeader(named))) = self.hear().await else { panic!("no end") };
        assert!(matches!(self.hear().await, Ok(None)), "the stream has ended");
        named.leader
    }
}

fn say(kind: FromWorker) -> pb::WorkerMessage {
    pb::WorkerMessage { kind: Some(kind) }
}

fn tell(kind: FromLeader) -> Result<pb::LeaderMessage, Status> {
    Ok(pb::LeaderMessage { kind: Some(kind) })
}

fn cancel(fence: u64) -> FromLeader {
    FromLeader::Cancel(pb::Cancel { run_id: "1-1".to_owned(), fence })
}

async fn leader() -> (String, mpsc::Receiver<AtLeader>, JoinHandle<()>) {
    let (sender, sessions) = mpsc::channel(16);
    let (address, serving) = serve(Role::Leads(sender)).await;
    (address, sessions, serving)
}

#[tokio::test]
async fn all_is_passed_on_in_order_and_the_way_is_named() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let mut worker = bench.worker("w/1").await;
    let mut session = within(sessions.recv()).await.expect("a session");
    assert_eq!((session.hello.worker.as_str(), session.hello.leader_only), ("w/1", false));
    let relayed = session.hello.relayed.clone().expect("it is marked");
    assert_eq!(relayed.node_id, 2);
    assert!(relayed.address.starts_with("127.0.0.1:"), "{relayed:?}");
    assert_eq!(session.hello.protocol, protocol::SPOKEN.newest, "the way speaks no more than this");

    session.outbox.send(tell(FromLeader::Welcome(pb::Welcome::default()))).await.expect("open");
    let Ok(Some(FromLeader::Welcome(welcome))) = worker.hear().await else { panic!("a welcome") };
    assert_eq!(welcome.relayed_by, 2);
    for fence in 1..=500 {
        session.outbox.send(tell(cancel(fence))).await.expect("open");
        assert_eq!(worker.hear().await.expect("open"), Some(cancel(fence)));
        let report = pb::Report { fence, ..pb::Report::default() };
        worker.outgoing.send(say(FromWorker::Report(report.clone()))).await.expect("open");
        let heard = within(session.inbound.message()).await.expect("open").and_then(|message| message.kind);
        assert_eq!(heard, Some(FromWorker::Report(report)));
    }
    drop(worker);
    assert!(matches!(within(session.inbound.message()).await, Ok(None) | Err(_)), "the worker has gone");
}

#[tokio::test]
async fn a_stream_ends_at_once_when_another_node_leads_and_names_it() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let mut worker = bench.worker("w/1").await;
    let mut session = within(sessions.recv()).await.expect("a session");
    // Nobody known is not another one.
    bench.leadership.send_replace(Leadership { term: 4, leader: None, is_leader: false });
    session.outbox.send(tell(cancel(1))).await.expect("open");
    assert_eq!(worker.hear().await.expect("open"), Some(cancel(1)));
    bench.leadership.send_replace(leads(3, "127.0.0.1:9"));
    assert_eq!(worker.is_told_to_leave().await, "127.0.0.1:9");
    assert!(
        matches!(within(session.inbound.message()).await, Ok(None) | Err(_)),
        "the old leader hears no more"
    );
}

#[tokio::test]
async fn a_node_that_comes_to_lead_itself_carries_no_longer() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let mut worker = bench.worker("w/1").await;
    let _session = within(sessions.recv()).await.expect("a session");
    bench.leadership.send_replace(leads(2, &bench.address));
    assert_eq!(worker.is_told_to_leave().await, "");
}

#[tokio::test]
async fn a_leader_that_is_lost_ends_the_stream() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let mut worker = bench.worker("w/1").await;
    let session = within(sessions.recv()).await.expect("a session");
    drop(session);
    assert_eq!(worker.is_told_to_leave().await, "");

    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    bench.leadership.send_replace(leads(3, &address));
    assert_eq!(bench.worker("w/1").await.is_told_to_leave().await, "");
}

#[tokio::test]
async fn a_leader_that_does_not_answer_is_not_waited_for_longer_than_the_worker_waits() {
    let hung = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let bench = Bench::start(leads(1, &hung.local_addr().expect("bound").to_string())).await;
    let begun = Instant::now();
    assert_eq!(bench.worker("w/1").await.is_told_to_leave().await, "");
    assert!(begun.elapsed() >= CONNECT_MAX.min(OPEN_MAX), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refusal_of_the_leader_reaches_the_worker() {
    let refusal = Status::failed_precondition("worker \"w/1\" is not served: it speaks too new a version");
    let (address, _serving) = serve(Role::Refuses(refusal.clone())).await;
    let bench = Bench::start(leads(1, &address)).await;
    let refused = bench.worker("w/1").await.hear().await.expect_err("a refusal");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, refusal.message()));
}

#[tokio::test]
async fn what_is_carried_already_or_wants_the_leader_alone_is_not_carried() {
    let bench = Bench::start(leads(1, "127.0.0.1:9")).await;
    let plain = pb::Hello::default();
    assert!(bench.relay.leader_for(&plain).is_some());
    let relayed = Some(pb::Relayed { node_id: 3, address: String::new() });
    assert_eq!(bench.relay.leader_for(&pb::Hello { relayed, ..plain.clone() }), None);
    assert_eq!(bench.relay.leader_for(&pb::Hello { leader_only: true, ..plain.clone() }), None);
    for other in [leads(1, ""), leads(2, "127.0.0.1:9"), Leadership::default()] {
        bench.leadership.send_replace(other);
        assert_eq!(bench.relay.leader_for(&plain), None);
    }
}

#[tokio::test]
async fn a_worker_that_takes_nothing_loses_its_stream_and_stops_nobody_elses() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let _deaf = bench.worker("deaf").await;
    let deaf = within(sessions.recv()).await.expect("a session");
    let mut other = bench.worker("other").await;
    let session = within(sessions.recv()).await.expect("a session");
    // More than the buffers of all connections on the way hold.
    let much = pb::Order { traceparent: "x".repeat(256 << 10), ..pb::Order::default() };
    let ended = async { while deaf.outbox.send(tell(FromLeader::Order(much.clone()))).await.is_ok() {} };
    within(ended).await;
    session.outbox.send(tell(cancel(1))).await.expect("open");
    assert_eq!(other.hear().await.expect("open"), Some(cancel(1)));
}

#[tokio::test]
async fn streams_share_connections_up_to_a_number() {
    let (address, mut sessions, _serving) = leader().await;
    let bench = Bench::start(leads(1, &address)).await;
    let leader = (1, address.as_str().into());
    let mut held: Vec<_> =
        (0..=STREAMS_PER_TRUNK).map(|_| bench.relay.trunk(&leader).expect("a trunk")).collect();
    let distinct = |held: &[(Channel, Arc<()>)]| {
        held.iter().map(|(_, used)| Arc::as_ptr(used) as usize).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&held), 2);
    held.truncate(1);
    held.push(bench.relay.trunk(&leader).expect("a trunk"));
    assert_eq!(distinct(&held), 1, "the room is used again");
    let _worker = bench.worker("w/1").await;
    within(sessions.recv()).await.expect("a session");
}
