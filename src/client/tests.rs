use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::pb::v1::breaker_service_server::{BreakerService, BreakerServiceServer};
use crate::pb::v1::{
    Breaker, GetBreakerRequest, ListBreakersRequest, ListBreakersResponse, ResetBreakerRequest,
    TripBreakerRequest,
};

/// What a fake node does with a call.
#[derive(Clone)]
enum Manner {
    Answer,
    NoLeader,
    Silent,
    Refuse(Status),
    /// Does the work, then breaks off without an answer, once.
    LoseAnswer(Arc<Mutex<bool>>),
}

struct Node {
    manner: Manner,
    operations: Arc<Mutex<Vec<String>>>,
}

impl Node {
    async fn answer(&self, name: String) -> Result<Response<Breaker>, Status> {
        match &self.manner {
            Manner::Answer => {}
            Manner::NoLeader => return Err(Status::unavailable("no leader")),
            Manner::Silent => std::future::pending().await,
            Manner::Refuse(status) => return Err(status.clone()),
            Manner::LoseAnswer(lost) => {
                if !std::mem::replace(&mut *lost.lock().expect("no panic"), true) {
                    return Err(Status::unavailable("stepping down"));
                }
            }
        }
        Ok(Response::new(Breaker { name, ..Breaker::default() }))
    }
}

#[tonic::async_trait]
impl BreakerService for Node {
    async fn list_breakers(
        &self,
        request: Request<ListBreakersRequest>,
    ) -> Result<Response<ListBreakersResponse>, Status> {
        let ListBreakersRequest { page_size, page_token, .. } = request.into_inner();
        let from: u32 = page_token.parse().unwrap_or(0);
        let to = (from + page_size.min(7)).min(20);
        let breakers = (from..to).map(|n| Breaker { name: format!("b{n}"), ..Breaker::default() }).collect();
        let next_page_token = if to < 20 { to.to_string() } else { String::new() };
        Ok(Response::new(ListBreakersResponse { breakers, next_page_token, applied_index: 0 }))
    }

    async fn get_breaker(&self, request: Request<GetBreakerRequest>) -> Result<Response<Breaker>, Status> {
        self.answer(request.into_inner().name).await
    }

    async fn trip_breaker(&self, request: Request<TripBreakerRequest>) -> Result<Response<Breaker>, Status> {
        let request = request.into_inner();
        self.operations.lock().expect("no panic").push(request.operation_id);
        self.answer(request.name).await
    }

    async fn reset_breaker(&self, _: Request<ResetBreakerRequest>) -> Result<Response<Breaker>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

type Operations = Arc<Mutex<Vec<String>>>;

async fn serve(manner: Manner) -> (SocketAddr, Operations) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let operations = Operations::default();
    let node = Node { manner, operations: Arc::clone(&operations) };
    let server = tonic::transport::Server::builder().add_service(BreakerServiceServer::new(node));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, operations)
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("it is bound")
}

fn client(addresses: &[SocketAddr], timeout: Duration) -> Client {
    let endpoints: Vec<Endpoint> =
        addresses.iter().map(|address| address.to_string().parse().expect("host and port")).collect();
    Client::new(&endpoints, timeout, || "abc".to_owned()).expect("some endpoints")
}

fn get() -> GetBreakerRequest {
    GetBreakerRequest { name: "feed".into(), ..GetBreakerRequest::default() }
}

fn trip() -> TripBreakerRequest {
    TripBreakerRequest { name: "feed".into(), ..TripBreakerRequest::default() }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_read_passes_over_nodes_that_cannot_answer() {
    let (no_leader, _) = serve(Manner::NoLeader).await;
    let (good, _) = serve(Manner::Answer).await;
    let client = client(&[nobody().await, no_leader, good], LONG);
    assert_eq!(client.get_breaker(get()).await.expect("the third answers").name, "feed");
    assert_eq!(client.preferred.load(Ordering::Relaxed), 2, "it stays with who answered");
}

#[tokio::test]
async fn a_silent_node_is_left_for_the_next() {
    let (silent, _) = serve(Manner::Silent).await;
    let (good, _) = serve(Manner::Answer).await;
    let client = client(&[silent, good], LONG);
    assert_eq!(client.get_breaker(get()).await.expect("the second answers").name, "feed");
}

#[tokio::test]
async fn a_write_is_repeated_with_the_same_operation_id() {
    let lost = Arc::new(Mutex::new(false));
    let (first, at_first) = serve(Manner::LoseAnswer(Arc::clone(&lost))).await;
    let (second, at_second) = serve(Manner::LoseAnswer(lost)).await;
    client(&[first, second], LONG).trip_breaker(trip()).await.expect("the second answers");
    let expected = ["abc"];
    assert_eq!(*at_first.lock().expect("no panic"), expected);
    assert_eq!(*at_second.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn an_operation_id_of_the_caller_is_kept() {
    let (good, operations) = serve(Manner::Answer).await;
    let request = TripBreakerRequest { operation_id: "mine".into(), ..trip() };
    client(&[good], LONG).trip_breaker(request).await.expect("it answers");
    assert_eq!(*operations.lock().expect("no panic"), ["mine"]);
}

#[tokio::test]
async fn a_refusal_is_not_taken_elsewhere() {
    let mut status = Status::failed_precondition("the breaker is locked");
    status.metadata_mut().insert(HINT, "reset it".parse().expect("ascii"));
    let (refusing, _) = serve(Manner::Refuse(status)).await;
    let (good, operations) = serve(Manner::Answer).await;
    let error = client(&[refusing, good], LONG).trip_breaker(trip()).await.expect_err("refused");
    assert!(matches!(&error, Error::Refused { message, .. } if message == "the breaker is locked"));
    assert_eq!(error.hint().as_deref(), Some("reset it"));
    assert!(operations.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_write_that_may_be_done_is_told_from_one_that_is_not() {
    let short = Duration::from_millis(300);
    let (silent, _) = serve(Manner::Silent).await;
    let error = client(&[nobody().await, silent], short).trip_breaker(trip()).await.expect_err("no time");
    let Error::UnknownResult { operation_id, tried } = &error else { panic!("{error:?}") };
    assert_eq!(operation_id, "abc");
    assert_eq!(tried.len(), 2, "{tried:?}");

    let error = client(&[nobody().await], LONG).trip_breaker(trip()).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = client(&[silent], short).get_breaker(get()).await.expect_err("no time");
    assert!(matches!(error, Error::Unreachable { .. }), "a read has no result to be in doubt: {error:?}");
}

#[tokio::test]
async fn a_write_that_every_node_declines_is_surely_not_done() {
    let mut declined = Status::unavailable("the cluster has no leader that this node knows of");
    declined.metadata_mut().insert(NOT_LEADER, "1".parse().expect("ascii"));
    let (follower, _) = serve(Manner::Refuse(declined)).await;
    let short = Duration::from_millis(500);
    let error = client(&[follower, nobody().await], short).trip_breaker(trip()).await.expect_err("no leader");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_are_joined_up_to_the_limit() {
    let (good, _) = serve(Manner::Answer).await;
    let client = client(&[good], LONG);
    let all = paging::breakers(&client, ListBreakersRequest::default(), 100).await.expect("it answers");
    assert_eq!((all.breakers.len(), all.next_page_token.as_str()), (20, ""));
    let some = paging::breakers(&client, ListBreakersRequest::default(), 9).await.expect("it answers");
    assert_eq!((some.breakers.len(), some.next_page_token.as_str()), (9, "9"));
    assert_eq!(some.breakers[8].name, "b8");
}

#[test]
fn every_code_of_the_convention_has_its_error() {
    for (code, expected) in [
        (tonic::Code::NotFound, "NotFound"),
        (tonic::Code::InvalidArgument, "InvalidArgument"),
        (tonic::Code::FailedPrecondition, "Refused"),
        (tonic::Code::AlreadyExists, "Refused"),
        (tonic::Code::ResourceExhausted, "Refused"),
        (tonic::Code::PermissionDenied, "PermissionDenied"),
        (tonic::Code::Unauthenticated, "PermissionDenied"),
        (tonic::Code::DataLoss, "Unexpected"),
    ] {
        let error = Error::of(&Status::new(code, "x"));
        assert!(format!("{error:?}").starts_with(expected), "{code:?}: {error:?}");
    }
}
