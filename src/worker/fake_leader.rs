//! A leader of the tests' making: does as it is told, on a real listener.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::pb::v1::worker_service_server::{WorkerService, WorkerServiceServer};

/// Beyond this something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Leads,
    /// Leads, but answers no heartbeat.
    Mute,
    Follows(String),
    /// Names this leader to whoever wants the leader alone, and carries the others.
    Carries(String),
    /// Accepts streams and says nothing on them.
    Hangs,
}

/// A node as the worker sees it.
pub(super) struct Node {
    pub(super) address: String,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) sessions: mpsc::Receiver<Session>,
    /// Output that was sent; the next waits until one is taken.
    pub(super) outputs: mpsc::Receiver<pb::OutputSent>,
    _server: JoinHandle<()>,
}

pub(super) struct Session {
    pub(super) hello: pb::Hello,
    /// All but heartbeats.
    heard: mpsc::Receiver<FromWorker>,
    pub(super) outbox: mpsc::Sender<Result<pb::LeaderMessage, Status>>,
    /// Its end breaks the stream.
    _alive: DropGuard,
}

pub(super) struct Service {
    mode: watch::Receiver<Mode>,
    sessions: mpsc::Sender<Session>,
    outputs: mpsc::Sender<pb::OutputSent>,
}

fn say(kind: FromLeader) -> Result<pb::LeaderMessage, Status> {
    Ok(pb::LeaderMessage { kind: Some(kind) })
}

#[tonic::async_trait]
impl WorkerService for Service {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderMessage, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut incoming = request.into_inner();
        let (outbox, outgoing) = mpsc::channel(64);
        let (mut mode, sessions) = (self.mode.clone(), self.sessions.clone());
        tokio::spawn(async move {
            let Ok(Some(pb::WorkerMessage { kind: Some(FromWorker::Hello(hello)) })) =
                incoming.message().await
            else {
                panic!("the first message is a hello");
            };
            let now = mode.borrow_and_update().clone();
            let mut relayed_by = 0;
            match now {
                Mode::Carries(_) if !hello.leader_only => relayed_by = 7,
                Mode::Leads | Mode::Mute => {}
                Mode::Follows(leader) | Mode::Carries(leader) => {
                    let _ = outbox.send(say(FromLeader::NotLeader(pb::NotLeader { leader }))).await;
                    return;
                }
                Mode::Hangs => return outbox.closed().await,
            }
            let lease = Some(prost_types::Duration { seconds: 10, nanos: 0 });
            let welcome = pb::Welcome { lease, term: 3, protocol: 1, relayed_by };
            outbox.send(say(FromLeader::Welcome(welcome))).await.expect("open");
            let (forward, heard) = mpsc::channel(64);
            let cut = CancellationToken::new();
            let session = Session { hello, heard, outbox: outbox.clone(), _alive: cut.clone().drop_guard() };
            sessions.send(session).await.expect("the test listens");
            pump(&mut incoming, &outbox, &forward, &mut mode, &cut).await;
            if cut.is_cancelled() {
                let _ = outbox.send(Err(Status::unavailable("cut"))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        Err(Status::unimplemented("no worker asks for this"))
    }

    async fn report_tasks(
        &self,
        _: Request<pb::ReportTasksRequest>,
    ) -> Result<Response<pb::ReportTasksResponse>, Status> {
        Err(Status::unimplemented("no worker asks for this"))
    }

    async fn drain_worker(&self, _: Request<pb::DrainWorkerRequest>) -> Result<Response<pb::Worker>, Status> {
        Err(Status::unimplemented("no worker asks for this"))
    }

    async fn resume_worker(
        &self,
        _: Request<pb::ResumeWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        Err(Status::unimplemented("no worker asks for this"))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<pb::OutputSent>>,
    ) -> Result<Response<pb::SendOutputResponse>, Status> {
        let mut incoming = request.into_inner();
        while let Some(sent) = incoming.message().await? {
            self.outputs.send(sent).await.map_err(|_| Status::cancelled("the test reads no more"))?;
        }
        Ok(Response::new(pb::SendOutputResponse {}))
    }
}

/// Answers heartbeats and forwards the rest; heartbeats of a mute time are answered after it.
async fn pump(
    incoming: &mut Streaming<pb::WorkerMessage>,
    outbox: &mpsc::Sender<Result<pb::LeaderMessage, Status>>,
    forward: &mpsc::Sender<FromWorker>,
    mode: &mut watch::Receiver<Mode>,
    cut: &CancellationToken,
) {
    let mut unanswered = 0;
    loop {
        let message = tokio::select! { biased;
            () = cut.cancelled() => return,
            Ok(()) = mode.changed() => None,
            message = incoming.message() => Some(message),
        };
        match message {
            None => {}
            Some(Ok(Some(pb::WorkerMessage { kind: Some(FromWorker::Heartbeat(_)) }))) => unanswered += 1,
            Some(Ok(Some(pb::WorkerMessage { kind: Some(kind) }))) => {
                let Ok(()) = forward.send(kind).await else { return };
            }
            Some(_) => return,
        }
        if matches!(*mode.borrow_and_update(), Mode::Leads | Mode::Carries(_)) {
            for _ in 0..std::mem::take(&mut unanswered) {
                let _ = outbox.send(say(FromLeader::Heartbeat(pb::Heartbeat {}))).await;
            }
        }
    }
}

impl Node {
    pub(super) async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (mode, modes) = watch::channel(mode);
        let (sender, sessions) = mpsc::channel(16);
        let (outputs, sent) = mpsc::channel(1);
        let service = WorkerServiceServer::new(Service { mode: modes, sessions: sender, outputs });
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = tokio::spawn(async move { serving.await.expect("serves") });
        Self { address, mode, sessions, outputs: sent, _server: server }
    }

    pub(super) async fn session(&mut self) -> Session {
        within(self.sessions.recv()).await.expect("the node lives")
    }
}

impl Session {
    pub(super) async fn tell(&self, kind: FromLeader) {
        self.outbox.send(say(kind)).await.expect("the stream is open");
    }

    pub(super) async fn hear(&mut self) -> FromWorker {
        within(self.heard.recv()).await.expect("the worker is there")
    }

    pub(super) async fn drain(&mut self) -> pb::Drain {
        match self.hear().await {
            FromWorker::Drain(drain) => drain,
            other => panic!("no drain: {other:?}"),
        }
    }

    pub(super) async fn report(&mut self) -> pb::Report {
        match self.hear().await {
            FromWorker::Report(report) => report,
            other => panic!("no report: {other:?}"),
        }
    }

    pub(super) async fn acknowledge(&self, report: &pb::Report) {
        let (run_id, fence) = (report.run_id.clone(), report.fence);
        self.tell(FromLeader::Acknowledged(pb::Acknowledged { run_id, fence, refused: false })).await;
    }

    pub(super) fn held(&self) -> Vec<(&str, u64)> {
        self.hello.held.iter().map(|held| (held.run_id.as_str(), held.fence)).collect()
    }
}

/// What the future yields, unless something hangs.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}
