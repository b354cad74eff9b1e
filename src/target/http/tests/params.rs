//! Params of a run in the request as it is sent.

use super::*;

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

async fn send_with(http: Http, params: BTreeMap<String, String>) -> Report {
    send_by(TargetsConfig::default(), Order { params, ..order(http) }).await
}

fn post(server: &Server) -> Http {
    Http {
        method: Method::Post,
        headers: pairs([("content-type", "application/json"), ("x-day", "day {{ params.day }}")]),
        body: Some(b"{\"who\": \"{{ params.who }}\"}".to_vec()),
        ..get(&server.url("/of/{{ params.who }}?day={{ params.day }}&all=0"))
    }
}

#[tokio::test]
async fn a_request_holds_the_values_of_the_run_and_none_of_them_is_more_than_a_value() {
    let server = Server::saying(ok(""));
    let who = "../../a\", \"admin\": \"yes&x=1#ü\\";
    let report = send_with(post(&server), pairs([("who", who), ("day", "2 & all=1")])).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    let requests = server.requests();
    let (line, _) = requests[0].split_once("\r\n").expect("a request line");
    let who_encoded = "..%2F..%2Fa%22%2C%20%22admin%22%3A%20%22yes%26x%3D1%23%C3%BC%5C";
    assert_eq!(line, format!("POST /of/{who_encoded}?day=2%20%26%20all%3D1&all=0 HTTP/1.1"));
    let (_, body) = requests[0].split_once("\r\n\r\n").expect("a body");
    assert_eq!(body, "{\"who\": \"../../a\\\", \\\"admin\\\": \\\"yes&x=1#ü\\\\\"}");
    assert_eq!(header(&requests[0], "x-day"), Some("day 2 & all=1"));
    assert_eq!(header(&requests[0], "chronarch-param-who"), Some(who), "and is told as it is");
}

#[tokio::test]
async fn values_that_cannot_stand_where_they_should_are_refused_by_the_name_of_the_field() {
    let server = Server::saying(ok(""));
    for (who, day, why) in [
        ("..", "x", "url: a segment of the path would be empty, `.` or `..`"),
        ("", "x", "url: a segment of the path would be empty, `.` or `..`"),
        ("x", "2\r\nx-admin: 1", "headers: the value of x-day cannot be sent"),
        ("x", "\u{7f}", "headers: the value of x-day cannot be sent"),
    ] {
        let report = send_with(post(&server), pairs([("who", who), ("day", day)])).await;
        assert_eq!((report.outcome, error(&report)), (Outcome::Refused, why));
    }
    let report = send_with(post(&server), pairs([("day", "x")])).await;
    assert_eq!((report.outcome, error(&report)), (Outcome::Refused, "url: there is no param who"));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_param_that_makes_a_text_too_long_is_refused() {
    let server = Server::saying(ok(""));
    let long = "ü".repeat(2048);
    let report = send_with(post(&server), pairs([("who", &long), ("day", "x")])).await;
    assert_eq!((report.outcome, error(&report)), (Outcome::Refused, "url: more than 8192 bytes"));
    assert!(server.requests().is_empty());
}
