//! Calls to a real server: the standard health service with reflection, and one that answers as it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{FILE_DESCRIPTOR_SET, HealthCheckRequest, HealthCheckResponse};

use crate::target::{AddressScope, Grpc, Order, Outcome, Report, Target, Targets, TargetsConfig, check_grpc};

const METHOD: &str = "grpc.health.v1.Health/Check";
const DEADLINE: Duration = Duration::from_secs(20);

/// Answers as the service that is asked for is called, and notes the metadata.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

#[tonic::async_trait]
impl Health for Server {
    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let text = |value: &http::HeaderValue| value.to_str().expect("ASCII").to_owned();
        let mut seen: BTreeMap<_, _> =
            headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let asked_for = request.into_inner().service;
        seen.insert("asked-for".to_owned(), asked_for.escape_default().to_string());
        self.seen.lock().expect("no panic").push(seen);
        match asked_for.as_str() {
            "away" => Err(Status::unavailable("come back later")),
            "hang" => std::future::pending().await,
            _ => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
        }
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(futures::stream::empty()))
    }
}

/// Which versions of reflection a server has.
#[derive(Clone, Copy, PartialEq)]
enum Reflection {
    New,
    Old,
    None,
}

async fn serve(server: Server, reflection: Reflection) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
    };
    let mut router = tonic::transport::Server::builder().add_service(HealthServer::new(server));
    if reflection == Reflection::New {
        router = router.add_service(builder().build_v1().expect("sound descriptors"));
    }
    if reflection == Reflection::Old {
        router = router.add_service(builder().build_v1alpha().expect("sound descriptors"));
    }
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

fn call(address: SocketAddr, request: &str) -> Grpc {
    Grpc {
        address: address.to_string(),
        method: METHOD.to_owned(),
        request: request.to_owned(),
        metadata: BTreeMap::new(),
        descriptor: Vec::new(),
        tls: false,
    }
}

fn order(grpc: Grpc) -> Order {
    Order {
        job: "nightly".to_owned(),
        namespace: "default".to_owned(),
        run_id: "1-2".to_owned(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 2,
        fence: 4711,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: String::new(),
        next_at: None,
        delivery: 0,
        target: Target::Grpc(grpc),
    }
}

async fn carry_out(order: Order) -> Report {
    let targets = Targets::new(&TargetsConfig::default()).expect("a sound configuration");
    let carried = targets.carry_out(&order, CancellationToken::new());
    tokio::time::timeout(DEADLINE, carried).await.expect("it ends")
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_method_is_called_as_the_server_or_the_job_describes_it() {
    for (reflection, descriptor) in [
        (Reflection::New, Vec::new()),
        (Reflection::Old, Vec::new()),
        (Reflection::None, FILE_DESCRIPTOR_SET.to_vec()),
    ] {
        let address = serve(Server::default(), reflection).await;
        let grpc = Grpc { descriptor, ..call(address, "{\"service\": \"x\"}") };
        let report = carry_out(order(grpc)).await;
        assert_eq!((report.outcome, report.grpc_status), (Outcome::Succeeded, Some(0)), "{report:?}");
        assert_eq!(report.output, b"{\"status\":\"SERVING\"}");
    }
    let address = serve(Server::default(), Reflection::None).await;
    let report = carry_out(order(call(address, ""))).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("the server does not describe itself (UNIMPLEMENTED"), "{report:?}");
}

#[tokio::test]
async fn the_call_says_for_whom_it_is_and_until_when() {
    let server = Server::default();
    let address = serve(server.clone(), Reflection::New).await;
    let metadata = BTreeMap::from([("Authorization".to_owned(), "Bearer x".to_owned())]);
    let mut order = order(Grpc { metadata, ..call(address, "{}") });
    order.timeout = Some(Duration::from_secs(15));
    assert_eq!(carry_out(order).await.outcome, Outcome::Succeeded);
    let seen = server.seen.lock().expect("no panic").remove(0);
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("chronarch-job", "nightly"),
        ("chronarch-run-id", "1-2"),
        ("idempotency-key", "1-2"),
        ("chronarch-attempt", "2"),
        ("chronarch-fence", "4711"),
        ("chronarch-scheduled-at", "2026-03-29T01:00:00.000Z"),
    ] {
        assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(seen.contains_key("grpc-timeout"), "{seen:?}");
}

#[tokio::test]
async fn a_call_holds_the_values_of_the_run_and_none_of_them_is_more_than_a_value() {
    let server = Server::default();
    let address = serve(server.clone(), Reflection::New).await;
    let metadata = BTreeMap::from([("x-day".to_owned(), "day {{ params.day }}".to_owned())]);
    let grpc = Grpc { metadata, ..call(address, "{\"service\": \"{{ params.who }}\"}") };
    let params = |who: &str, day: &str| {
        BTreeMap::from([("who".to_owned(), who.to_owned()), ("day".to_owned(), day.to_owned())])
    };
    let order = |params| Order { params, ..order(grpc.clone()) };
    let who = "\", \"service\": \"away\\";
    let report = carry_out(order(params(who, "2"))).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    {
        let seen = server.seen.lock().expect("no panic");
        assert_eq!(
            seen[0].get("asked-for").map(String::as_str),
            Some(who.escape_default().to_string().as_str())
        );
        assert_eq!(seen[0].get("x-day").map(String::as_str), Some("day 2"));
        assert_eq!(seen[0].get("chronarch-param-day").map(String::as_str), Some("2"));
    }
    for (params, why) in [
        (params("x", "2\r\nx-admin: 1"), "metadata: x-day is no name, or its value cannot be sent"),
        (BTreeMap::new(), "metadata: x-day: there is no param day"),
    ] {
        let report = carry_out(order(params)).await;
        assert_eq!((report.outcome, error(&report)), (Outcome::Refused, why));
    }
    assert_eq!(server.seen.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_status_that_is_not_ok_fails_the_attempt_and_is_told() {
    let address = serve(Server::default(), Reflection::New).await;
    let report = carry_out(order(call(address, "{\"service\": \"away\"}"))).await;
    assert_eq!((report.outcome, report.grpc_status), (Outcome::Failed, Some(14)));
    assert_eq!(error(&report), "grpc UNAVAILABLE: come back later");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_a_timeout_and_a_cancelled_one_ends() {
    let address = serve(Server::default(), Reflection::New).await;
    let mut slow = order(call(address, "{\"service\": \"hang\"}"));
    slow.timeout = Some(Duration::from_millis(500));
    let report = carry_out(slow.clone()).await;
    assert_eq!(report.outcome, Outcome::TimedOut, "{report:?}");
    slow.timeout = None;
    let (targets, cancel) =
        (Targets::new(&TargetsConfig::default()).expect("sound"), CancellationToken::new());
    let (report, ()) = tokio::join!(targets.carry_out(&slow, cancel.clone()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    assert_eq!(report.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let server = Server::default();
    let address = serve(server.clone(), Reflection::New).await;
    let base = || Grpc { descriptor: FILE_DESCRIPTOR_SET.to_vec(), ..call(address, "{}") };
    let reserved = BTreeMap::from([("chronarch-fence".to_owned(), "1".to_owned())]);
    for (grpc, why) in [
        (Grpc { method: "Check".to_owned(), ..base() }, "method: \"Check\" is not package.Service/Method"),
        (Grpc { method: "grpc.health.v1.Health/Chek".to_owned(), ..base() }, "method: there is no "),
        (
            Grpc { method: "grpc.health.v1.Health/Watch".to_owned(), ..base() },
            "method: grpc.health.v1.Health/Watch is not unary",
        ),
        (Grpc { request: "{\"servise\": 1}".to_owned(), ..base() }, "request: "),
        (Grpc { request: "[]".to_owned(), ..base() }, "request: "),
        (Grpc { descriptor: vec![1, 2, 3], ..base() }, "descriptor: "),
        (Grpc { metadata: reserved, ..base() }, "metadata: chronarch-fence cannot be set"),
        (Grpc { address: "169.254.169.254:80".to_owned(), ..base() }, "address: address 169.254.169.254"),
    ] {
        let report = carry_out(order(grpc)).await;
        assert_eq!(report.outcome, Outcome::Refused, "{report:?}");
        assert!(error(&report).starts_with(why), "{why}: {report:?}");
    }
    assert!(server.seen.lock().expect("no panic").is_empty());
    let unknown = carry_out(order(Grpc { method: "a.B/C".to_owned(), ..call(address, "{}") })).await;
    assert_eq!((unknown.outcome, error(&unknown)), (Outcome::Failed, "method: there is no a.B/C"));
}

#[tokio::test]
async fn nobody_there_is_a_failure_and_so_is_a_server_without_the_encryption_that_is_asked_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let report = carry_out(order(call(free, "{}"))).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("cannot connect: "), "{report:?}");
    let plain = serve(Server::default(), Reflection::New).await;
    let report = carry_out(order(Grpc { tls: true, ..call(plain, "{}") })).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("cannot connect: "), "{report:?}");
}

#[tokio::test]
async fn an_encrypted_call_trusts_the_authorities_of_the_worker_and_no_others() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (pem, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    // Whatever installs the provider first.
    let config = TargetsConfig { address_scope: AddressScope::Any, ..TargetsConfig::default() };
    let stranger = Targets::new(&config).expect("a sound configuration");
    let identity = tonic::transport::Identity::from_pem(&pem, key);
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let mut server = tonic::transport::Server::builder().tls_config(tls).expect("sound");
    let server = server.add_service(HealthServer::new(Server::default()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let grpc = Grpc {
        address: format!("localhost:{port}"),
        descriptor: FILE_DESCRIPTOR_SET.to_vec(),
        tls: true,
        ..call(([127, 0, 0, 1], port).into(), "{}")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).expect("writable");
    let trusting = TargetsConfig { extra_ca: Some(file), ..config };
    let trusting = Targets::new(&trusting).expect("a sound configuration");
    let report = trusting.carry_out(&order(grpc.clone()), CancellationToken::new()).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    let report = stranger.carry_out(&order(grpc), CancellationToken::new()).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("cannot connect: "), "{report:?}");
}

#[test]
fn a_job_is_checked_as_far_as_it_can_be_without_the_server() {
    let check = |method: &str, request: &str, set: &[u8]| {
        check_grpc(method, request, set).map_err(|error| error.to_string())
    };
    assert_eq!(check(METHOD, "", &[]), Ok(()));
    assert_eq!(check(METHOD, "{\"any\": [1]}", &[]), Ok(()));
    assert!(check(METHOD, "[1]", &[]).expect_err("no object").starts_with("request: "));
    assert!(check("x", "", &[]).expect_err("no name").starts_with("method: "));
    assert_eq!(check(METHOD, "{\"service\": \"a\"}", FILE_DESCRIPTOR_SET), Ok(()));
    assert!(
        check(METHOD, "{\"service\": 7}", FILE_DESCRIPTOR_SET)
            .expect_err("a number")
            .starts_with("request: ")
    );
    let empty = prost_types::FileDescriptorSet::default().encode_to_vec();
    assert_eq!(check(METHOD, "", &empty), Ok(()), "an empty set is none");
}
