//! Named connections to brokers: `[connections.NAME]` in a node's file, or in one of a worker's own.
//!
//! A password is never shown: it is a [`Secret`], or a file or variable that is read each time a connection is opened,
//! so that it can be changed without a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;
use url::Url;

use super::ConfigError;
use super::reader::{Reader, Table, line_of};

/// Connections of a worker, at most: a worker announces two kinds for each, of 64 that it may have.
pub const CONNECTIONS_MAX: usize = 24;
/// How long a broker is told to remember which run a message was of, unless the connection says otherwise.
pub const REMEMBER_FOR: Duration = Duration::from_secs(24 * 3_600);

/// A text that nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for whoever is to be convinced by it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the password of a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// There is none.
    None,
    /// In the URL.
    Known(Secret),
    /// In a file, whose last line break does not count.
    File(PathBuf),
    /// In a variable of the worker's environment.
    Env(String),
}

/// What answers at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// A Redis server.
    Redis,
    /// A server that speaks AMQP 0-9-1: RabbitMQ.
    Amqp,
}

impl Broker {
    /// The kind of target that is for such brokers alone.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Amqp => "amqp",
        }
    }
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where to; without its password.
    pub url: Url,
    /// Its password.
    pub password: Password,
    /// A PEM file with the authorities that are trusted for it instead of the machine's.
    pub tls_ca: Option<PathBuf>,
    /// How long the broker remembers which run a message was of.
    pub remember_for: Duration,
    /// What the Celery app says of its broker.
    pub celery: CeleryOptions,
}

impl Connection {
    /// What answers at the other end, as the URL says.
    #[must_use]
    pub fn broker(&self) -> Broker {
        match self.url.scheme() {
            "amqp" | "amqps" => Broker::Amqp,
            _ => Broker::Redis,
        }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        ["rediss", "amqps"].contains(&self.url.scheme())
    }

    /// The host of the URL, without the brackets of an address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The name that the URL gives.
    #[must_use]
    pub fn username(&self) -> Option<String> {
        let name = Some(self.url.username()).filter(|name| !name.is_empty())?;
        Some(percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned())
    }

    /// The virtual host of a RabbitMQ server. `amqp://host`, `amqp://host/` and, as in Celery, `amqp://host//` name the
    /// default one, which is called `/`.
    #[must_use]
    pub fn virtual_host(&self) -> String {
        let path = self.url.path();
        match path.strip_prefix('/').unwrap_or(path) {
            "" => "/".to_owned(),
            name => percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned(),
        }
    }
}

/// `broker_transport_options` of a Celery app, as far as they decide where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CeleryOptions {
    /// Before every key.
    pub global_keyprefix: String,
    /// The lists of a queue by priority; ascending, from 0.
    pub priority_steps: Vec<u8>,
    /// Between the name of a queue and its step, and between the parts of a binding.
    pub sep: String,
}

impl Default for CeleryOptions {
    fn default() -> Self {
        Self {
            global_keyprefix: String::new(),
            priority_steps: vec![0, 3, 6, 9],
            sep: "\u{6}\u{16}".to_owned(),
        }
    }
}

/// Connections by their names.
pub type Connections = BTreeMap<String, Connection>;

/// Reads the file of a worker that stands alone: `[connections.NAME]` and nothing else.
///
/// # Errors
/// [`ConfigError`] with every problem found, each with file, line and key.
pub fn read(name: &str, text: &str) -> Result<Connections, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        ConfigError { problems: vec![format!("{name}:{line}: {}", error.message())] }
    })?;
    let mut reader = Reader { name, text, places: BTreeMap::new(), problems: Vec::new() };
    let mut table = table.into_inner();
    let connections = reader.connections(&mut table);
    reader.nothing_left(&table, "");
    reader.finish(connections)
}

impl Reader<'_> {
    pub(super) fn connections(&mut self, table: &mut Table<'_>) -> Connections {
        let mut connections = Connections::new();
        let Some(mut section) = self.section(table, "connections") else { return connections };
        let names: Vec<String> = section.keys().map(|key| key.get_ref().to_string()).collect();
        if names.len() > CONNECTIONS_MAX {
            let reason = format!("{} are too many, at most {CONNECTIONS_MAX} are allowed", names.len());
            self.problem(None, "connections", &reason);
        }
        for name in names {
            let at = self.place(&section, &name);
            let path = format!("connections.{name}");
            if !is_name(&name) {
                self.problem(at, &path, "a name has 1 to 128 characters out of a-z, 0-9, `.`, `_` and `-`");
            }
            let Some(mut one) = self.section(&mut section, &name) else { continue };
            let connection = self.connection(&mut one, &path);
            self.nothing_left(&one, &format!("{path}."));
            connections.extend(connection.map(|connection| (name, connection)));
        }
        connections
    }

    fn connection(&mut self, table: &mut Table<'_>, path: &str) -> Option<Connection> {
        let at = self.place(table, "url");
        let url = self.string(table, path, "url");
        let file = self.string(table, path, "password_file").map(PathBuf::from);
        let env = self.string(table, path, "password_env");
        let tls_ca = self.string(table, path, "tls_ca").map(PathBuf::from);
        let mut remember_for = REMEMBER_FOR;
        // Both are of Redis: its note of a run, and the keys that kombu uses.
        let only_redis = ["remember_for", "celery"].map(|key| (key, self.place(table, key)));
        let range = Duration::from_secs(60)..=Duration::from_secs(366 * 24 * 3_600);
        self.duration(table, path, "remember_for", range, &mut remember_for);
        let celery = self.celery(table, path);
        let key = format!("{path}.url");
        let Some(url) = url else {
            if at.is_none() {
                self.problem(None, &key, "is missing; expected a URL such as redis://host:6379/0");
            }
            return None;
        };
        // What is wrong is told without the text, in which there may be a password.
        let url = match Url::parse(&url) {
            Ok(url) => url,
            Err(error) => {
                self.problem(at, &key, &format!("is no URL: {error}"));
                return None;
            }
        };
        if let Err(reason) = check(&url) {
            self.problem(at, &key, reason);
        }
        let (url, known) = without_password(url);
        let is_amqp = url.scheme().starts_with("amqp");
        let (is_tls, with_tls) = match url.scheme() {
            "amqp" | "amqps" => (url.scheme() == "amqps", "an amqps://"),
            _ => (url.scheme() == "rediss", "a rediss://"),
        };
        if tls_ca.is_some() && !is_tls {
            let reason = format!("has no meaning without TLS: use {with_tls} URL");
            self.problem(None, &format!("{path}.tls_ca"), &reason);
        }
        if is_amqp {
            for (key, at) in only_redis.into_iter().filter(|(_, at)| at.is_some()) {
                self.problem(at, &format!("{path}.{key}"), "has no meaning for RabbitMQ; it is of Redis");
            }
        }
        let named = [known.is_some(), file.is_some(), env.is_some()];
        if named.into_iter().filter(|named| *named).count() > 1 {
            self.problem(
                at,
                path,
                "has more than one of a password in its url, password_file and password_env",
            );
        }
        let password = match (known, file, env) {
            (Some(secret), _, _) => Password::Known(secret),
            (None, Some(file), _) => Password::File(file),
            (None, None, Some(variable)) => Password::Env(variable),
            (None, None, None) => Password::None,
        };
        Some(Connection { url, password, tls_ca, remember_for, celery })
    }

    fn celery(&mut self, table: &mut Table<'_>, path: &str) -> CeleryOptions {
        let mut options = CeleryOptions::default();
        let Some(mut section) = self.section(table, "celery") else { return options };
        let path = format!("{path}.celery");
        if let Some(prefix) = self.string(&mut section, &path, "global_keyprefix") {
            options.global_keyprefix = prefix;
        }
        if let Some(sep) = self.string(&mut section, &path, "sep") {
            options.sep = sep;
        }
        let at = self.place(&section, "priority_steps");
        if let Some(steps) = self.take(&mut section, "priority_steps") {
            match steps_of(steps.get_ref()) {
                Some(steps) => options.priority_steps = steps,
                None => {
                    let key = format!("{path}.priority_steps");
                    self.problem(
                        at,
                        &key,
                        "expected numbers from 0 to 9, the first 0, each more than the last",
                    );
                }
            }
        }
        self.nothing_left(&section, &format!("{path}."));
        options
    }
}

fn steps_of(value: &toml::de::DeValue<'_>) -> Option<Vec<u8>> {
    let toml::de::DeValue::Array(items) = value else { return None };
    let steps: Option<Vec<u8>> = items
        .iter()
        .map(|item| match item.get_ref() {
            toml::de::DeValue::Integer(number) => u8::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        })
        .collect();
    let steps = steps?;
    let rises = steps.windows(2).all(|pair| pair[0] < pair[1]);
    (steps.first() == Some(&0) && steps.last() <= Some(&9) && rises).then_some(steps)
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(allowed)
}

fn check(url: &Url) -> Result<(), &'static str> {
    let is_amqp = ["amqp", "amqps"].contains(&url.scheme());
    if !is_amqp && !["redis", "rediss"].contains(&url.scheme()) {
        return Err("expected a URL that begins with redis://, amqp://, or with TLS rediss:// or amqps://");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host");
    }
    let database = url.path().trim_start_matches('/');
    if !is_amqp && !database.is_empty() && database.parse::<u32>().is_err() {
        return Err("the number of a database is expected behind the host: redis://host:6379/0");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has options behind it that are not known here; they have keys of their own");
    }
    if is_amqp && url.path().get(1..).is_some_and(|name| name.len() > 1 && name.contains('/')) {
        return Err("a slash in the name of a virtual host is written %2F: amqp://host:5672/a%2Fb");
    }
    Ok(())
}

fn without_password(mut url: Url) -> (Url, Option<Secret>) {
    let decoded = url
        .password()
        .map(|text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned());
    // It fails for URLs without a host, which are refused, and whose password would then be kept.
    if url.set_password(None).is_err() {
        url = Url::parse("redis://none").expect("a URL");
    }
    (url, decoded.filter(|text| !text.is_empty()).map(Secret))
}

#[cfg(test)]
mod tests {
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
            assert!(
                shown.starts_with("c.toml:2: connections.a.url: ") && !shown.contains("s3cret"),
                "{shown}"
            );
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
        let text =
            "[connections.a]\nurl = \"amqp://h\"\nremember_for = \"1h\"\ntls_ca = \"x\"\ncelery = {}\n";
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
                "c.toml:9: connections.c.speed: unknown key",
                "c.toml:12: connections.d.celery.priority_steps: expected numbers from 0 to 9, the first 0, each more than the last",
                "c.toml:13: more: unknown key",
                "c.toml: connections.b.url: is missing; expected a URL such as redis://host:6379/0",
                "c.toml: connections.c.tls_ca: has no meaning without TLS: use a rediss:// URL",
            ]
        );
    }
}
