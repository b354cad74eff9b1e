//! What is read of connections, and what is told of those that are wrong.

use super::*;

fn problems(text: &str) -> Vec<String> {
    read("c.toml", text).expect_err("it is wrong").problems
}

#[test]
fn a_connection_has_the_defaults_of_celery() {
    let read = read("c.toml", "[connections.main]\nurl = \"redis://127.0.0.1:6379/1\"\n").expect("right");
    let main = &read["main"];
    assert_eq!((main.url.as_str(), &main.password), ("redis://127.0.0.1:6379/1", &Password::None));
    assert_eq!(main.celery.priority_steps, [0, 3, 6, 9]);
    assert_eq!(main.remember_for, REMEMBER_FOR);
}

#[test]
fn a_password_is_shown_nowhere() {
    let text = "[connections.a]\nurl = \"rediss://me:s%40cret@h/2\"\ntls_ca = \"ca.pem\"\n\
                celery = { global_keyprefix = \"x:\", priority_steps = [0, 5], sep = \":\" }\n";
    let read = read("c.toml", text).expect("right");
    let Password::Known(secret) = &read["a"].password else { panic!("no password") };
    assert_eq!(secret.reveal(), "s@cret");
    let shown = format!("{read:?}");
    assert!(!shown.contains("cret") && shown.contains("me"), "{shown}");
    for wrong in ["http://me:s3cret@h", "redis://me:s3cret@h:x", "redis://me:s3cret@h/x", "s3cret"] {
        let shown = problems(&format!("[connections.a]\nurl = \"{wrong}\"\n")).join("\n");
        assert!(shown.starts_with("c.toml:2: connections.a.url: ") && !shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_virtual_host_is_named_as_in_celery() {
    let read = |url: &str| {
        let text = format!("[connections.a]\nurl = \"{url}\"\n");
        super::read("c.toml", &text).map(|read| read["a"].virtual_host())
    };
    for url in ["amqp://h", "amqp://h/", "amqp://h//", "amqps://u:p@h:1/%2F", "amqp://h:1/%2f"] {
        assert_eq!(read(url).as_deref(), Ok("/"), "{url}");
    }
    assert_eq!(read("amqp://h/shop").as_deref(), Ok("shop"));
    assert_eq!(read("amqp://h/a%2Fb%20c").as_deref(), Ok("a/b c"));
    assert!(read("amqp://h/a/b").is_err_and(|error| error.problems[0].contains("%2F")));
    assert!(read("amqp://h/a?heartbeat=3").is_err());
}

#[test]
fn what_is_of_redis_alone_is_refused_for_rabbitmq() {
    let text = "[connections.a]\nurl = \"amqp://h\"\nremember_for = \"1h\"\ntls_ca = \"x\"\ncelery = {}\n";
    assert_eq!(
        problems(text),
        [
            "c.toml:3: connections.a.remember_for: has no meaning for RabbitMQ; it is of Redis",
            "c.toml:5: connections.a.celery: has no meaning for RabbitMQ; it is of Redis",
            "c.toml: connections.a.tls_ca: has no meaning without TLS: use an amqps:// URL",
        ]
    );
}

#[test]
fn all_that_is_wrong_with_connections_is_told_with_its_line() {
    let text = "[connections.A]\nurl = \"redis://h\"\n[connections.b]\ntls_ca = \"x\"\n[connections.c]\n\
                url = \"redis://:p@h\"\npassword_env = \"P\"\ntls_ca = \"x\"\nspeed = 1\n[connections.d]\n\
                url = \"redis://h\"\ncelery = { priority_steps = [3, 1] }\n[more]\n";
    assert_eq!(
        problems(text),
        [
            "c.toml:1: connections.A: a name has 1 to 128 characters out of a-z, 0-9, `.`, `_` and `-`",
            "c.toml:6: connections.c: has more than one of a password in its url, password_file and password_env",
            "c.toml:9: connections.c.speed: unknown key; there are url, password_file, password_env, \
             sentinel_password_file, creds_file, tls_ca, remember_for, celery",
            "c.toml:12: connections.d.celery.priority_steps: expected numbers from 0 to 9, the first 0, each more than the last",
            "c.toml:13: more: unknown key",
            "c.toml: connections.b.url: is missing; expected a URL such as redis://host:6379/0",
            "c.toml: connections.c.tls_ca: has no meaning without TLS: use a rediss:// URL",
        ]
    );
}

#[test]
fn a_cluster_of_nats_is_named_by_its_servers_and_one_secret() {
    let read = |text: &str| read("c.toml", &format!("[connections.a]\n{text}\n"));
    let server = |host: &str, port| Server { host: host.to_owned(), port };
    let one =
        read("url = \"nats://me:s%2C3cret@a,b:4333,[::1]:4444\"").expect("right").remove("a").expect("a");
    assert_eq!(one.servers, [server("a", None), server("b", Some(4333)), server("::1", Some(4444))]);
    assert_eq!((one.broker(), one.is_tls(), one.username().as_deref()), (Broker::Nats, false, Some("me")));
    assert_eq!(one.password, Password::Known("s,3cret".to_owned().into()));
    assert!(!format!("{one:?}").contains("3cret"));
    let token = read("url = \"tls://h\"\npassword_file = \"t\"\ntls_ca = \"x\"").expect("right");
    assert!(token["a"].is_tls() && token["a"].username().is_none());
    let creds = read("url = \"tls://h\"\ncreds_file = \"c\"").expect("right");
    assert_eq!(creds["a"].creds_file.as_deref(), Some(std::path::Path::new("c")));
}

#[test]
fn what_is_wrong_with_a_connection_to_nats_is_told_and_no_secret_is() {
    let found = |text: &str| problems(&format!("[connections.a]\n{text}\n")).join("\n");
    for (text, problem) in [
        ("url = \"nats://h/x\"", "c.toml:2: connections.a.url: nothing is expected behind the host"),
        ("url = \"nats://t0ken@h\"", "c.toml:2: connections.a: has a name in its url and no password for it"),
        (
            "url = \"nats://t0ken@h\"\ncreds_file = \"c\"",
            "c.toml:2: connections.a: has a name in its url and no password for it",
        ),
        ("url = \"nats://me:t0ken@h,me:t0ken@i\"", "c.toml:2: connections.a.url: has more than one @"),
        ("url = \"nats://h,,i\"", "c.toml:2: connections.a.url: has a place for a server without one"),
        ("url = \"nats://h,i:x\"", "c.toml:2: connections.a.url: names a server that is none: "),
        (
            "url = \"nats://h,h,h,h,h,h,h,h,h,h,h,h,h,h,h,h,h\"",
            "c.toml:2: connections.a.url: names 17 servers, at most 16 are allowed",
        ),
        ("url = \"amqp://h,i\"", "c.toml:2: connections.a.url: names several servers"),
        (
            "url = \"nats://h\"\nremember_for = \"1h\"",
            "c.toml:3: connections.a.remember_for: has no meaning for NATS; it is of Redis",
        ),
        (
            "url = \"redis://h\"\ncreds_file = \"c\"",
            "c.toml:3: connections.a.creds_file: has no meaning for Redis; it is of NATS",
        ),
        (
            "url = \"nats://h\"\ncreds_file = \"c\"\npassword_env = \"P\"",
            "c.toml:2: connections.a: has more than one of a password in its url, password_file, creds_file and",
        ),
        (
            "url = \"nats://h\"\ntls_ca = \"c\"",
            "c.toml: connections.a.tls_ca: has no meaning without TLS: use a tls:// URL",
        ),
    ] {
        let found = found(text);
        assert!(found.starts_with(problem) && !found.contains("t0ken"), "{problem}: {found}");
    }
}

#[test]
fn sentinels_are_named_with_their_master_and_its_database() {
    let read = |text: &str| read("c.toml", &format!("[connections.a]\n{text}\n"));
    let text = "url = \"redis-sentinel://me@s1:26380,s2/my-master/3\"\npassword_file = \"p\"\n\
                sentinel_password_file = \"q\"\nremember_for = \"1h\"";
    let one = read(text).expect("right").remove("a").expect("a");
    let server = |host: &str, port| Server { host: host.to_owned(), port };
    assert_eq!(one.servers, [server("s1", Some(26380)), server("s2", None)]);
    assert_eq!((one.broker(), one.is_tls(), one.database()), (Broker::Redis, false, 3));
    assert_eq!(one.password, Password::File("p".into()));
    let sentinel = Sentinel { master: "my-master".to_owned(), password: Password::File("q".into()) };
    assert_eq!(one.sentinel, Some(sentinel));
    let plain =
        read("url = \"rediss-sentinel://s1/m\"\ntls_ca = \"x\"").expect("right").remove("a").expect("a");
    assert_eq!((plain.is_tls(), plain.database()), (true, 0));
    for (text, problem) in [
        (
            "url = \"redis-sentinel://s1,s2\"",
            "c.toml:2: connections.a.url: the name of the master is expected",
        ),
        (
            "url = \"redis-sentinel://s1/m/x\"",
            "c.toml:2: connections.a.url: the name of the master is expected",
        ),
        (
            "url = \"redis-sentinel://s1,s2/0\"",
            "c.toml:2: connections.a.url: the name of the master is expected behind the sentinels",
        ),
        ("url = \"redis-sentinel://:p@s1,:p@s2/m\"", "c.toml:2: connections.a.url: has more than one @"),
        ("url = \"redis://s1,s2/0\"", "c.toml:2: connections.a.url: names several servers"),
        (
            "url = \"redis://h\"\nsentinel_password_file = \"q\"",
            "c.toml: connections.a.sentinel_password_file: has no meaning without sentinels",
        ),
    ] {
        let found = problems(&format!("[connections.a]\n{text}\n")).join("\n");
        assert!(found.starts_with(problem), "{problem}: {found}");
    }
}

#[test]
fn what_was_probably_meant_is_told() {
    let found = |text: &str| problems(&format!("[connections.a]\n{text}\n")).join("\n");
    for (text, problem) in [
        (
            "url = \"redis://h\"\npasword_file = \"f\"",
            "c.toml:3: connections.a.pasword_file: unknown key; did you mean `password_file`?",
        ),
        (
            "url = \"redis://h\"\ncelery = { keyprefix = \"f\" }",
            "c.toml:3: connections.a.celery.keyprefix: unknown key; there are global_keyprefix, priority_steps, sep",
        ),
        (
            "url = \"redis://h\"\npassword = \"s3cret\"",
            "c.toml:3: connections.a.password: is not written here, where everybody reads it: name a file \
             (password_file) or a variable (password_env) that has it",
        ),
        (
            "url = \"redis://:s3/cret#pw@h:1/0\"",
            "c.toml:2: connections.a.url: is no URL: empty host; in a password, / is written %2F, ? is %3F, # is %23",
        ),
        (
            "url = \"redis://me:1/cret@h:1/0\"",
            "c.toml:2: connections.a.url: ends in the midst of its password; in a password, / is written %2F",
        ),
        (
            "url = \"kafka://h\"",
            "c.toml:2: connections.a.url: expected a URL that begins with redis://, redis-sentinel://, amqp:// or",
        ),
    ] {
        let found = found(text);
        assert!(found.starts_with(problem) && !found.contains("cret\""), "{problem}: {found}");
    }
}

#[test]
fn a_connection_is_called_by_its_name_and_its_first_server() {
    let label = |url: &str| {
        read("c.toml", &format!("[connections.a]\nurl = \"{url}\"\n")).expect("right")["a"].label()
    };
    assert_eq!(label("redis://:s3cret@h/1"), "connection a (h:6379)");
    assert_eq!(label("amqps://[::1]/x"), "connection a ([::1]:5671)");
    assert_eq!(label("nats://me:s3cret@n1:4333,n2,n3"), "connection a (n1:4333 and 2 more)");
    assert_eq!(label("redis-sentinel://s1,s2/m/0"), "connection a (s1:26379 and 1 more)");
}
