//! A real server for each test, on a port of its own, that speaks just enough HTTP.

mod params;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::target::{
    AddressScope, HTTP_BODY_BYTES_MAX, HTTP_REDIRECTS_MAX, Http, INPUT_BYTES_MAX, Method, OUTPUT_TAIL_BYTES,
    Order, Outcome, Report, Target, Targets, TargetsConfig, parse_success,
};

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// What a server does with a request (head and body as text) on a connection.
type Answer = Box<dyn Fn(&str, &mut dyn Stream) + Send>;

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// One request a connection; ends with the test's process.
    fn start(tls: Option<Arc<rustls::ServerConfig>>, answer: Answer) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                if let Some(tls) = &tls {
                    let session =
                        rustls::ServerConnection::new(Arc::clone(tls)).expect("a sound configuration");
                    serve(&mut rustls::StreamOwned::new(session, connection), &seen, &answer);
                } else {
                    serve(&mut connection, &seen, &answer);
                    let _closed = connection.shutdown(Shutdown::Write);
                }
            }
        });
        Self { address, requests }
    }

    fn plain(answer: impl Fn(&str, &mut dyn Stream) + Send + 'static) -> Self {
        Self::start(None, Box::new(answer))
    }

    /// Always answers this.
    fn saying(response: impl Into<String>) -> Self {
        let response = response.into();
        Self::plain(move |_, stream| drop(stream.write_all(response.as_bytes())))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panics with it").clone()
    }
}

/// Reads one request and answers it. The client may hang up at any time.
fn serve(stream: &mut dyn Stream, seen: &Mutex<Vec<String>>, answer: &Answer) {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            seen.lock().expect("no test panics with it").push(text.clone());
            answer(&text, stream);
            let _gone = stream.flush();
            return;
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn moved(status: u16, location: &str) -> String {
    format!(
        "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

fn get(url: &str) -> Http {
    Http {
        method: Method::Get,
        url: url.to_owned(),
        headers: BTreeMap::new(),
        body: None,
        success: Vec::new(),
    }
}

fn order(http: Http) -> Order {
    Order {
        job: "nightly".to_owned(),
        namespace: "default".to_owned(),
        run_id: "run-7".to_owned(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 2,
        fence: 4711,
        timeout: Some(Duration::from_secs(20)),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: String::new(),
        next_at: None,
        delivery: 0,
        target: Target::Http(http),
    }
}

async fn send_by(config: TargetsConfig, order: Order) -> Report {
    let targets = Targets::new(&config).expect("a sound configuration");
    targets.carry_out(&order, CancellationToken::new()).await
}

async fn send(http: Http) -> Report {
    send_by(TargetsConfig::default(), order(http)).await
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn a_request_tells_the_target_what_it_serves() {
    let server = Server::saying(ok("done"));
    let http = Http {
        method: Method::Post,
        headers: [("Authorization".to_owned(), "Bearer x".to_owned())].into(),
        body: Some(b"payload".to_vec()),
        ..get(&server.url("/hook?a=b"))
    };
    let report = send(http).await;
    assert_eq!(
        (report.outcome, report.http_status, report.error.as_deref()),
        (Outcome::Succeeded, Some(200), None)
    );
    assert_eq!((report.output.as_slice(), report.output_truncated), (b"done".as_slice(), false));
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert!(
        request.starts_with("POST /hook?a=b HTTP/1.1\r\n") && request.ends_with("\r\n\r\npayload"),
        "{request}"
    );
    for (name, value) in [
        ("chronarch-job", "nightly"),
        ("chronarch-namespace", "default"),
        ("chronarch-run-id", "run-7"),
        ("idempotency-key", "run-7"),
        ("chronarch-scheduled-at", "2026-03-29T01:00:00.000Z"),
        ("chronarch-attempt", "2"),
        ("chronarch-fence", "4711"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("authorization", "Bearer x"),
        ("user-agent", concat!("chronarch/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(header(request, name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_head_response_has_no_body_to_wait_for() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n");
    let report = send(Http { method: Method::Head, ..get(&server.url("/")) }).await;
    assert_eq!((report.outcome, report.output.len()), (Outcome::Succeeded, 0));
}

#[tokio::test]
async fn the_status_decides_and_the_job_says_which() {
    let server = Server::saying("HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy");
    let report = send(get(&server.url("/"))).await;
    assert_eq!((report.outcome, report.http_status), (Outcome::Failed, Some(503)));
    assert_eq!((error(&report), report.output.as_slice()), ("http status 503", b"busy".as_slice()));
    let success = parse_success("200-299,503").expect("good ranges");
    assert_eq!(send(Http { success, ..get(&server.url("/")) }).await.outcome, Outcome::Succeeded);

    let server = Server::saying(moved(302, "/elsewhere"));
    let success = parse_success("302").expect("a good code");
    let report = send(Http { success, ..get(&server.url("/")) }).await;
    assert_eq!((report.outcome, server.requests().len()), (Outcome::Succeeded, 1), "not followed");
}

#[tokio::test]
async fn headers_that_are_ours_or_frame_the_request_are_refused() {
    let server = Server::saying(ok(""));
    for name in [
        "Chronarch-Fence",
        "chronarch-anything",
        "Idempotency-Key",
        "traceparent",
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "Host",
        "bad name",
        "bad\r\nx",
        "",
    ] {
        let headers = [(name.to_owned(), "secret".to_owned())].into();
        let report = send(Http { headers, ..get(&server.url("/")) }).await;
        assert_eq!(report.outcome, Outcome::Refused, "{name:?}");
        assert!(error(&report).starts_with("headers: ") && !error(&report).contains("secret"), "{report:?}");
    }
    for headers in [
        BTreeMap::from([("x".to_owned(), "secret\r\ny: z".to_owned())]),
        BTreeMap::from([("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())]),
        (0..65).map(|i| (format!("x-{i}"), String::new())).collect(),
        BTreeMap::from([("x".to_owned(), "s".repeat(16 * 1024))]),
    ] {
        let report = send(Http { headers, ..get(&server.url("/")) }).await;
        assert_eq!(report.outcome, Outcome::Refused, "{report:?}");
        assert!(!error(&report).contains("secret"), "{report:?}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn requests_beyond_the_rules_are_refused_before_anything_is_sent() {
    let server = Server::saying(ok(""));
    let port = server.address.port();
    let only =
        |rule: &str| TargetsConfig { allowed_hosts: Some(vec![rule.to_owned()]), ..TargetsConfig::default() };
    let public = TargetsConfig { address_scope: AddressScope::Public, ..TargetsConfig::default() };
    for (config, url) in [
        (only("example.com"), server.url("/")),
        (only(&format!("127.0.0.1:{}", port ^ 1)), server.url("/")),
        (public.clone(), server.url("/")),
        (public.clone(), format!("http://localhost:{port}/")),
        (public, format!("http://[::ffff:127.0.0.1]:{port}/")),
        (TargetsConfig::default(), "http://169.254.169.254/latest".to_owned()),
        (TargetsConfig::default(), "file:///etc/passwd".to_owned()),
        (TargetsConfig::default(), "not a url".to_owned()),
        (TargetsConfig::default(), server.url(&"x".repeat(9000))),
    ] {
        let report = send_by(config, order(get(&url))).await;
        assert_eq!(report.outcome, Outcome::Refused, "{url:.60} {report:?}");
    }
    let large =
        Http { method: Method::Put, body: Some(vec![0; INPUT_BYTES_MAX + 1]), ..get(&server.url("/")) };
    assert_eq!(send(large).await.outcome, Outcome::Refused);
    assert!(server.requests().is_empty());
    let report = send_by(only(&format!("127.0.0.1:{port}")), order(get(&server.url("/")))).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_redirect_loop_ends_at_the_limit() {
    let server = Server::saying(moved(302, "/again"));
    let report = send(get(&server.url("/"))).await;
    assert_eq!((report.outcome, report.http_status), (Outcome::Failed, Some(302)));
    assert_eq!(error(&report), "redirect: more than 5 in a row");
    assert_eq!(server.requests().len(), HTTP_REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_header_of_the_job_along() {
    let second = Server::saying(ok("there"));
    let first = Server::saying(moved(307, &second.url("/new")));
    let headers = [("Authorization", "Bearer x"), ("X-Api-Key", "k"), ("Content-Type", "text/plain")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let http = Http { method: Method::Post, headers, body: Some(b"b".to_vec()), ..get(&first.url("/")) };
    assert_eq!(send(http).await.output, b"there");
    let request = &second.requests()[0];
    assert!(request.starts_with("POST /new ") && request.ends_with("\r\n\r\nb"), "{request}");
    assert_eq!((header(request, "authorization"), header(request, "x-api-key")), (None, None));
    assert_eq!(header(request, "content-type"), Some("text/plain"));
    assert_eq!(header(request, "idempotency-key"), Some("run-7"));
}

#[tokio::test]
async fn a_redirect_at_the_same_host_keeps_the_headers_and_after_a_post_may_become_a_get() {
    let server = Server::plain(|request, stream| {
        let answer = if request.starts_with("GET /new ") { ok("read") } else { moved(303, "/new") };
        drop(stream.write_all(answer.as_bytes()));
    });
    let headers = [("X-Api-Key", "k"), ("Content-Type", "text/plain")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let http = Http { method: Method::Post, headers, body: Some(b"b".to_vec()), ..get(&server.url("/")) };
    assert_eq!(send(http).await.output, b"read");
    let request = &server.requests()[1];
    assert_eq!((header(request, "x-api-key"), header(request, "content-type")), (Some("k"), None));
}

#[tokio::test]
async fn a_redirect_beyond_the_rules_fails_and_is_not_followed() {
    let other = Server::saying(ok(""));
    for location in [
        "http://169.254.169.254/latest".to_owned(),
        other.url("/"),
        "file:///etc/passwd".to_owned(),
        "http://".to_owned(),
    ] {
        let server = Server::saying(moved(302, &location));
        let rules = vec![format!("127.0.0.1:{}", server.address.port()), "169.254.0.1".to_owned()];
        let config = TargetsConfig { allowed_hosts: Some(rules), ..TargetsConfig::default() };
        let report = send_by(config, order(get(&server.url("/")))).await;
        assert_eq!((report.outcome, report.http_status), (Outcome::Failed, Some(302)), "{location}");
        assert!(error(&report).starts_with("redirect: "), "{report:?}");
    }
    assert!(other.requests().is_empty());
}

/// A server with a certificate for 127.0.0.1 and the file of the authority that signed it.
fn tls_server(response: String) -> (Server, tempfile::NamedTempFile) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("an authority");
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&leaf_key, &issuer))
        .expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("a key");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("they belong together");
    let answer = move |_: &str, stream: &mut dyn Stream| drop(stream.write_all(response.as_bytes()));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(authority.pem().as_bytes()).expect("written");
    (Server::start(Some(Arc::new(config)), Box::new(answer)), file)
}

#[tokio::test]
async fn a_server_whose_authority_is_unknown_is_told_apart_and_one_of_an_extra_authority_is_trusted() {
    let (server, authority) = tls_server(ok("safe"));
    let url = format!("https://{}/", server.address);
    let report = send(get(&url)).await;
    assert_eq!((report.outcome, report.http_status), (Outcome::Failed, None));
    assert_eq!(error(&report), "tls: invalid peer certificate: UnknownIssuer");

    let config = TargetsConfig { extra_ca: Some(authority.path().into()), ..TargetsConfig::default() };
    assert_eq!(send_by(config.clone(), order(get(&url))).await.output, b"safe");

    let localhost = format!("https://localhost:{}/", server.address.port());
    let report = send_by(config, order(get(&localhost))).await;
    assert!(error(&report).starts_with("tls: invalid peer certificate"), "wrong name: {report:?}");

    let empty = tempfile::NamedTempFile::new().expect("a file");
    let config = TargetsConfig { extra_ca: Some(empty.path().into()), ..TargetsConfig::default() };
    assert!(Targets::new(&config).is_err());
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_not_followed() {
    let plain = Server::saying(ok(""));
    let (server, authority) = tls_server(moved(302, &plain.url("/")));
    let config = TargetsConfig { extra_ca: Some(authority.path().into()), ..TargetsConfig::default() };
    let report = send_by(config, order(get(&format!("https://{}/", server.address)))).await;
    assert_eq!((report.outcome, error(&report)), (Outcome::Failed, "redirect: from https down to http"));
    assert!(plain.requests().is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_a_tls_failure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let http = get(&format!("https://{}/", listener.local_addr().expect("bound")));
    let (report, _open) = tokio::join!(send(http), async {
        let (connection, _) = listener.accept().await.expect("a connection");
        connection.writable().await.expect("room");
        connection.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written");
        connection
    });
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("tls: "), "{report:?}");
}

/// Answers the beginning and keeps the connection until the client leaves.
fn hanging(beginning: &'static str) -> Server {
    Server::plain(move |_, stream| {
        drop(stream.write_all(beginning.as_bytes()).and_then(|()| stream.flush()));
        let _client_left = stream.read(&mut [0]);
    })
}

#[tokio::test]
async fn a_server_that_hangs_is_left_at_the_timeout() {
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nbegun";
    for (beginning, status, output, words) in [
        ("", None, "", "timed out after 300ms while connecting or waiting for the response"),
        (begun, Some(200), "begun", "timed out after 300ms while reading the response body"),
    ] {
        let server = hanging(beginning);
        let mut order = order(get(&server.url("/")));
        order.timeout = Some(Duration::from_millis(300));
        let report = send_by(TargetsConfig::default(), order).await;
        assert_eq!((report.outcome, report.http_status), (Outcome::TimedOut, status));
        assert_eq!((report.output.as_slice(), error(&report)), (output.as_bytes(), words));
    }
}

#[tokio::test]
async fn a_cancelled_request_is_left_at_once() {
    let server = hanging("");
    let cancel = CancellationToken::new();
    let targets = Targets::new(&TargetsConfig::default()).expect("a sound configuration");
    let order = order(get(&server.url("/")));
    let (report, ()) = tokio::join!(targets.carry_out(&order, cancel.clone()), async {
        while server.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    });
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(error(&report), "cancelled while connecting or waiting for the response");
}

#[tokio::test]
async fn what_went_wrong_on_the_way_is_named_without_the_url() {
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let dropped = Server::plain(|_, _| {});
    let cut = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nbegun");
    let garbage = Server::saying("hello\r\n\r\n");
    for (url, start) in [
        (format!("http://u:secret@{closed}/secret"), "connect: connection refused"),
        ("http://no-such-host.invalid/secret".to_owned(), "dns: cannot resolve \"no-such-host.invalid\""),
        (dropped.url("/secret"), "request: connection closed before message completed"),
        (cut.url("/secret"), "body: connection closed in the middle"),
        (garbage.url("/secret"), "request: "),
    ] {
        let report = send(get(&url)).await;
        assert_eq!(report.outcome, Outcome::Failed, "{url}");
        assert!(
            error(&report).starts_with(start) && !error(&report).contains("secret"),
            "{start}: {report:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_is_a_failure() {
    // a socket that is closed with unread input resets its connection
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let http = get(&format!("http://{}/", listener.local_addr().expect("bound")));
    let (report, ()) = tokio::join!(send(http), async {
        let (connection, _) = listener.accept().await.expect("a connection");
        assert!(connection.peek(&mut [0]).await.is_ok_and(|bytes| bytes == 1));
    });
    assert_eq!((report.outcome, error(&report)), (Outcome::Failed, "request: connection reset"));
}

#[tokio::test]
async fn of_a_huge_body_no_more_than_the_limit_is_read_and_the_tail_is_kept() {
    let chunk = vec![b'x'; 1024 * 1024];
    let endless = Server::plain(move |_, stream| {
        let mut going = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").is_ok();
        while going {
            going = stream.write_all(&chunk).is_ok();
        }
    });
    let report = send(get(&endless.url("/"))).await;
    assert_eq!((report.outcome, report.http_status), (Outcome::Succeeded, Some(200)));
    assert_eq!(error(&report), "body cut after 10485760 bytes");
    assert_eq!((report.output.len(), report.output_truncated), (OUTPUT_TAIL_BYTES, true));

    let length = usize::try_from(HTTP_BODY_BYTES_MAX).expect("small");
    let whole = Server::saying(ok(&format!("{}end", "x".repeat(length - 3))));
    let report = send(get(&whole.url("/"))).await;
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::Succeeded, None), "exactly the limit");
    assert!(report.output.ends_with(b"xend") && report.output_truncated);
}
