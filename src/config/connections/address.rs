//! The URL of a connection: what answers there, by which servers, and for what password.
//!
//! No problem is told with the text itself, in which there may be a password.

use url::Url;

use super::{Broker, Secret, Server};

/// Servers that one URL names, at most.
const SERVERS_MAX: usize = 16;

/// What a URL says.
pub(super) struct Address {
    /// Without the password, and with the first server alone.
    pub(super) url: Url,
    pub(super) servers: Vec<Server>,
    pub(super) password: Option<Secret>,
    pub(super) broker: Broker,
    /// The name of the master, where the servers are sentinels.
    pub(super) master: Option<String>,
}

/// Reads the text; or why it cannot be used.
pub(super) fn read(text: &str) -> Result<Address, String> {
    let (first, others) = apart(text);
    let url = Url::parse(&first).map_err(|error| format!("is no URL: {error}{}", cut_short(text)))?;
    let Some(broker) = Broker::of(url.scheme()) else {
        return Err("expected a URL that begins with redis://, redis-sentinel://, amqp:// or nats://, \
                    or with TLS rediss://, rediss-sentinel://, amqps:// or tls://"
            .to_owned());
    };
    if !cut_short(text).is_empty() {
        return Err(format!("ends in the midst of its password{}", cut_short(text)));
    }
    let with_sentinels = url.scheme().ends_with("-sentinel");
    check(&url, broker)?;
    let takes_several = broker == Broker::Nats || with_sentinels;
    if others.len() >= SERVERS_MAX {
        return Err(format!("names {} servers, at most {SERVERS_MAX} are allowed", others.len() + 1));
    }
    // As other clients of NATS name a user for each server.
    if takes_several && text.matches('@').count() > 1 {
        return Err("has more than one @: the user is named once, before the first host, and an @ of a password is %40"
            .to_owned());
    }
    if !others.is_empty() && !takes_several {
        return Err("names several servers, which only one of NATS or of sentinels (redis-sentinel://) may"
            .to_owned());
    }
    let mut servers = vec![server(&url)];
    for other in others {
        let other = Url::parse(&other).map_err(|error| format!("names a server that is none: {error}"))?;
        if other.host_str().is_none_or(str::is_empty) {
            return Err("has a place for a server without one: write host:port,host:port".to_owned());
        }
        servers.push(server(&other));
    }
    let master = with_sentinels.then(|| master_of(&url));
    let (url, password) = without_password(url);
    Ok(Address { url, servers, password, broker, master })
}

/// A hint where a password has what ends the name of a host.
fn cut_short(text: &str) -> &'static str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // There is no @ behind the hosts.
    match rest[end..].contains('@') {
        true => "; in a password, / is written %2F, ? is %3F, # is %23, @ is %40 and % is %25",
        false => "",
    }
}

/// The URL with the first of its servers, and each other server as a URL of its own.
fn apart(text: &str) -> (String, Vec<String>) {
    let Some((scheme, rest)) = text.split_once("://") else { return (text.to_owned(), Vec::new()) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A comma in a password is one of the password.
    let begin = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(begin);
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    (format!("{scheme}://{user}{first}{path}"), hosts.map(|host| format!("{scheme}://{host}")).collect())
}

fn server(url: &Url) -> Server {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Server { host, port: url.port() }
}

/// The name of the master: `/NAME` or `/NAME/DATABASE`.
fn master_of(url: &Url) -> String {
    let path = url.path().trim_start_matches('/');
    path.split('/').next().unwrap_or_default().to_owned()
}

fn check(url: &Url, broker: Broker) -> Result<(), &'static str> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has options behind it that are not known here; they have keys of their own");
    }
    let path = url.path().trim_start_matches('/');
    if url.scheme().ends_with("-sentinel") {
        let (name, number) = path.split_once('/').unwrap_or((path, "0"));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        // A number alone is that of a database, whose master was forgotten.
        let is_forgotten = !path.contains('/') && name.bytes().all(|byte| byte.is_ascii_digit());
        let is_right =
            !name.is_empty() && !is_forgotten && name.bytes().all(allowed) && number.parse::<u32>().is_ok();
        return is_right.then_some(()).ok_or(
            "the name of the master is expected behind the sentinels, and the number of a database: \
             redis-sentinel://s1:26379,s2:26379/mymaster/0",
        );
    }
    match broker {
        Broker::Redis if !path.is_empty() && path.parse::<u32>().is_err() => {
            Err("the number of a database is expected behind the host: redis://host:6379/0")
        }
        Broker::Amqp if url.path().get(1..).is_some_and(|name| name.len() > 1 && name.contains('/')) => {
            Err("a slash in the name of a virtual host is written %2F: amqp://host:5672/a%2Fb")
        }
        Broker::Nats if !path.is_empty() => {
            Err("nothing is expected behind the host: nats://host:4222; a job names the subject")
        }
        Broker::Redis | Broker::Amqp | Broker::Nats => Ok(()),
    }
}

fn without_password(mut url: Url) -> (Url, Option<Secret>) {
    let decoded = url
        .password()
        .map(|text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned());
    url.set_password(None).expect("it has a host");
    (url, decoded.filter(|text| !text.is_empty()).map(Secret))
}
