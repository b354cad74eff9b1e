//! Reading output, with workers of the tests' making: they answer over real gRPC.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::api::{Asked, limits};
use crate::node::fleet::Fleet;
use crate::node::relay::Relay;
use crate::node::worker_service::WorkerStreams;
use crate::pb::v1::worker_service_client::WorkerServiceClient;
use crate::pb::v1::worker_service_server::WorkerServiceServer;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker says to one asking; a script that ends without a state breaks the call.
type Script = Box<dyn Fn(&pb::ReadOutput) -> Vec<pb::OutputSent> + Send + Sync>;

fn sent(offset: u64, text: &str) -> pb::OutputSent {
    let stream = pb::OutputStream::Both.into();
    let piece = pb::OutputPiece { offset, stream, data: text.into(), ..Default::default() };
    pb::OutputSent { pieces: vec![piece], ..Default::default() }
}

fn last(state: pb::OutputState) -> pb::OutputSent {
    pb::OutputSent { state: state.into(), ..Default::default() }
}

/// Lets the node ask a worker that does as the script says, and counts what it could send.
async fn worker(node: &Node, script: Script) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, mut none) = mpsc::channel(1);
    let relay = Relay::new(&node.raft, Dialer::tcp());
    let fleet = Fleet::new(
        node.api.clone(),
        node.raft.clone(),
        events.clone(),
        Arc::new(crate::metrics::Metrics::new()),
    );
    let streams = WorkerStreams::new(1, events, relay, (fleet, node.api.clone()));
    let service = WorkerServiceServer::new(streams);
    let server = crate::api::server().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    tokio::spawn(async move { none.recv().await });
    let (script, taken) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&taken);
    node.api.read_output_by(Arc::new(move |_, wanted| {
        let (script, counted) = (Arc::clone(&script), Arc::clone(&counted));
        tokio::spawn(async move {
            let (sender, queue) = mpsc::channel(1);
            let channel = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
            let mut client = WorkerServiceClient::new(channel.connect().await.unwrap());
            let call = tokio::spawn(async move { client.send_output(ReceiverStream::new(queue)).await });
            let first = pb::OutputSent { id: wanted.id.clone(), ..Default::default() };
            for message in std::iter::once(first).chain(script(&wanted)) {
                let bytes: usize = message.pieces.iter().map(|piece| piece.data.len()).sum();
                if sender.send(message).await.is_err() {
                    break;
                }
                counted.fetch_add(bytes, Ordering::SeqCst);
            }
            drop(sender);
            let _ = call.await;
        });
        Box::pin(async { Asked::Yes })
    }));
    taken
}

impl Node {
    async fn ended_with(&self, run: &pb::Run, output: &str, output_truncated: bool) {
        self.begin(run).await;
        let id = run.run_id.parse().unwrap();
        let fence = self.raft.state().run(id).unwrap().running().unwrap().fence;
        let report = Arc::new(Report { output: output.into(), output_truncated, ..Report::default() });
        let (outcome, retry_after) = (AttemptOutcome::Succeeded, Duration::ZERO);
        self.propose(vec![Command::Complete { run: id, fence, outcome, report, retry_after }]).await;
    }

    async fn read(&self, request: pb::ReadOutputRequest) -> Result<Read, tonic::Status> {
        let stream = self.api.read_output(Request::new(request)).await?.into_inner();
        Ok(Read(stream))
    }
}

struct Read(ReceiverStream<Result<pb::ReadOutputResponse, tonic::Status>>);

impl Read {
    async fn next(&mut self) -> Option<Result<pb::ReadOutputResponse, tonic::Status>> {
        timeout(PATIENCE, self.0.next()).await.expect("it goes on")
    }

    /// The text, and how the last attempt's reading ended.
    async fn all(mut self) -> Result<(String, pb::OutputState), tonic::Status> {
        let (mut text, mut state) = (String::new(), pb::OutputState::Unspecified);
        while let Some(message) = self.next().await {
            let message = message?;
            text.extend(message.pieces.iter().map(|piece| String::from_utf8_lossy(&piece.data).into_owned()));
            state = message.state();
        }
        Ok((text, state))
    }
}

fn of(run: &pb::Run) -> pb::ReadOutputRequest {
    pb::ReadOutputRequest { run_id: run.run_id.clone(), ..Default::default() }
}

fn followed(run: &pb::Run) -> pb::ReadOutputRequest {
    pb::ReadOutputRequest { follow: true, later_attempts: true, ..of(run) }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_record_tells_what_it_has() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let (whole, cut, pending) =
        (node.trigger("a", "1").await, node.trigger("a", "2").await, node.trigger("a", "3").await);
    node.ended_with(&whole, "one\ntwo\n", false).await;
    node.ended_with(&cut, "two\n", true).await;
    let all = async |request| node.read(request).await.unwrap().all().await.map_err(|status| status.code());
    let tail = pb::ReadOutputRequest { tail_lines: 1, ..of(&whole) };
    assert_eq!(all(of(&whole)).await, Ok(("one\ntwo\n".into(), pb::OutputState::Ended)));
    assert_eq!(all(followed(&whole)).await, Ok(("one\ntwo\n".into(), pb::OutputState::Ended)));
    assert_eq!(all(tail).await, Ok(("two\n".into(), pb::OutputState::Ended)));
    assert_eq!(all(of(&cut)).await, Ok(("two\n".into(), pb::OutputState::Away)));
    assert_eq!(all(of(&pending)).await, Ok((String::new(), pb::OutputState::Unspecified)));
    assert_eq!(all(pb::ReadOutputRequest { attempt: 2, ..of(&whole) }).await, Err(Code::NotFound));
    let unknown = pb::ReadOutputRequest { run_id: "999-0".into(), ..Default::default() };
    assert_eq!(all(unknown).await, Err(Code::NotFound));
    for wrong in [
        pb::ReadOutputRequest { run_id: "x".into(), ..Default::default() },
        pb::ReadOutputRequest { tail_lines: limits::OUTPUT_TAIL_LINES + 1, ..of(&whole) },
        pb::ReadOutputRequest { tail_lines: 1, offset: 1, ..of(&whole) },
        pb::ReadOutputRequest { later_attempts: true, ..of(&whole) },
        pb::ReadOutputRequest { stream: pb::OutputStream::Body.into(), ..of(&whole) },
    ] {
        let refused = node.read(wrong.clone()).await.err().map(|status| status.code());
        assert!(matches!(refused, Some(Code::InvalidArgument | Code::NotFound)), "{wrong:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_worker_that_keeps_nothing_the_record_tells_the_end_once_there_is_one() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    node.api.read_output_by(Arc::new(|_, _| Box::pin(async { Asked::KeepsNone })));
    let run = node.trigger("a", "").await;
    let mut reading = node.read(followed(&run)).await.unwrap();
    node.ended_with(&run, "the end\n", true).await;
    let told = reading.next().await.unwrap().unwrap();
    assert_eq!((told.state(), told.pieces[0].loss()), (pb::OutputState::Forgotten, pb::OutputLoss::Record));
    assert_eq!(told.pieces[1].data, b"the end\n");
    assert!(reading.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_breaks_off_is_asked_again_behind_the_last_byte() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    worker(
        &node,
        Box::new(move |wanted| {
            let mut seen = seen.lock().unwrap();
            seen.push((wanted.offset, wanted.follow));
            match seen.len() {
                1 => vec![last(pb::OutputState::Forgotten)],
                2 => vec![sent(0, "one\n")],
                3 => vec![],
                _ => vec![sent(4, "two\n"), last(pb::OutputState::Ended)],
            }
        }),
    )
    .await;
    let mut reading = node.read(followed(&run)).await.unwrap();
    let nothing = timeout(Duration::from_millis(300), reading.0.next()).await;
    assert!(nothing.is_err() && asked.lock().unwrap().is_empty(), "no attempt was started yet");
    node.begin(&run).await;
    let first = reading.next().await.unwrap().unwrap();
    assert_eq!(
        (first.attempt, first.worker.as_str(), first.pieces[0].data.as_slice()),
        (1, "w", &b"one\n"[..])
    );
    let second = reading.next().await.unwrap().unwrap();
    assert_eq!((second.pieces[0].offset, second.pieces[0].data.as_slice()), (4, &b"two\n"[..]));
    assert_eq!(reading.next().await.unwrap().unwrap().state(), pb::OutputState::Ended);
    assert_eq!(*asked.lock().unwrap(), [(0, true), (0, true), (4, true), (4, true)]);
    let rest = timeout(Duration::from_millis(300), reading.0.next()).await;
    assert!(rest.is_err(), "the run lives, so another attempt may follow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_stops_the_worker_within_bounds_and_frees_it_when_it_goes() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    node.begin(&run).await;
    let piece = "x".repeat(64 << 10);
    let endless = move |_: &pb::ReadOutput| (0..4_096).map(|n| sent(n << 16, &piece)).collect();
    let taken = worker(&node, Box::new(endless)).await;
    let mut reading = node.read(followed(&run)).await.unwrap();
    reading.next().await.unwrap().unwrap();
    // It stands still once nothing has moved for a while, and then it must not have got far.
    let mut before = usize::MAX;
    let until = tokio::time::Instant::now() + PATIENCE;
    while before != taken.load(Ordering::SeqCst) {
        assert!(tokio::time::Instant::now() < until, "it goes on and on");
        before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(before < 8 << 20, "{before} bytes are on their way to a reader that takes none");
    for _ in 0..3 {
        reading.next().await.unwrap().unwrap();
    }
    let others: Vec<Read> = {
        let mut others = Vec::new();
        for _ in 1..limits::OUTPUT_READS_PER_WORKER {
            let mut other = node.read(followed(&run)).await.unwrap();
            other.next().await.unwrap().unwrap();
            others.push(other);
        }
        others
    };
    let refused = node.read(followed(&run)).await.unwrap().all().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(others);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut again = node.read(followed(&run)).await.unwrap();
        if again.next().await.unwrap().is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "whoever has gone still counts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reading_more_than_a_node_serves_is_refused() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    let mut readings = Vec::new();
    for _ in 0..limits::OUTPUT_READS {
        readings.push(node.read(followed(&run)).await.unwrap());
    }
    let refused = node.read(of(&run)).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::ResourceExhausted));
    readings.clear();
    let until = tokio::time::Instant::now() + PATIENCE;
    while node.read(of(&run)).await.is_err() {
        assert!(tokio::time::Instant::now() < until, "whoever has gone still counts");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
