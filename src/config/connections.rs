//! Named connections to brokers: `[connections.NAME]` in a node's file, or in one of a worker's own.
//!
//! A password is never shown: it is a [`Secret`], or a file or variable that is read each time a connection is opened,
//! so that it can be changed without a restart.

mod address;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;
use url::Url;

use self::address::Address;
use super::ConfigError;
use super::reader::{Reader, Table, line_of};

/// Connections of a worker, at most: a worker announces two kinds for each, of 64 that it may have.
pub const CONNECTIONS_MAX: usize = 24;
/// How long a broker is told to remember which run a message was of, unless the connection says otherwise.
pub const REMEMBER_FOR: Duration = Duration::from_secs(24 * 3_600);

/// What can be said of a connection.
const KEYS: [&str; 8] = [
    "url",
    "password_file",
    "password_env",
    "sentinel_password_file",
    "creds_file",
    "tls_ca",
    "remember_for",
    "celery",
];
/// What the Celery app says of it.
const CELERY_KEYS: [&str; 3] = ["global_keyprefix", "priority_steps", "sep"];

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
    /// A NATS server, or several of one cluster.
    Nats,
}

impl Broker {
    /// The kind of target that is for such brokers alone.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Amqp => "amqp",
            Self::Nats => "nats",
        }
    }

    /// Whether it carries tasks of Celery.
    #[must_use]
    pub const fn has_celery(self) -> bool {
        match self {
            Self::Redis | Self::Amqp => true,
            Self::Nats => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Amqp => "RabbitMQ",
            Self::Nats => "NATS",
        }
    }

    fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "redis" | "rediss" | "redis-sentinel" | "rediss-sentinel" => Some(Self::Redis),
            "amqp" | "amqps" => Some(Self::Amqp),
            "nats" | "tls" => Some(Self::Nats),
            _ => None,
        }
    }

    /// A URL with TLS, and its article.
    const fn with_tls(self) -> &'static str {
        match self {
            Self::Redis => "a rediss://",
            Self::Amqp => "an amqps://",
            Self::Nats => "a tls://",
        }
    }
}

/// A server that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name or address, the latter without brackets.
    pub host: String,
    /// Its port, where it is not the usual one.
    pub port: Option<u16>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// How jobs name it.
    pub name: String,
    /// Where to; without its password, and with the first of its servers alone.
    pub url: Url,
    /// All servers that it names: several may be of a cluster of NATS, or the sentinels of Redis.
    pub servers: Vec<Server>,
    /// The servers are sentinels, which say where the master is.
    pub sentinel: Option<Sentinel>,
    /// Its password; for NATS without a name in the URL, its token.
    pub password: Password,
    /// A file with the user's JWT and the seed of his nkey, of NATS; read as the file of a password is.
    pub creds_file: Option<PathBuf>,
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
        Broker::of(self.url.scheme()).expect("the URL was read")
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        ["rediss", "rediss-sentinel", "amqps", "tls"].contains(&self.url.scheme())
    }

    /// The number of the database of a Redis server.
    #[must_use]
    pub fn database(&self) -> i64 {
        let path = self.url.path().trim_start_matches('/');
        // Before it there is the name of the master.
        let number =
            if self.sentinel.is_some() { path.split_once('/').map_or("", |(_, rest)| rest) } else { path };
        number.parse().unwrap_or(0)
    }

    /// What it is called where something is said of it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("connection {} ({})", self.name, self.place())
    }

    /// The first of its servers, and how many there are more.
    #[must_use]
    pub fn place(&self) -> String {
        let Server { host, port } = &self.servers[0];
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let more = match self.servers.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{host}:{}{more}", port.unwrap_or_else(|| self.usual_port()))
    }

    /// Where such servers listen, unless it is said.
    #[must_use]
    pub fn usual_port(&self) -> u16 {
        match (self.broker(), self.is_tls()) {
            (Broker::Redis, _) if self.sentinel.is_some() => 26379,
            (Broker::Redis, _) => 6379,
            (Broker::Amqp, false) => 5672,
            (Broker::Amqp, true) => 5671,
            (Broker::Nats, _) => 4222,
        }
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

/// What sentinels of Redis are asked, and what they ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// The name under which they watch the master.
    pub master: String,
    /// Their own password, which is not that of the master.
    pub password: Password,
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
            let connection = self.connection(&mut one, &name);
            if let Some(at) = self.place(&one, "password") {
                let reason = "is not written here, where everybody reads it: name a file (password_file) or a variable \
                              (password_env) that has it";
                self.problem(Some(at), &format!("{path}.password"), reason);
                self.take(&mut one, "password");
            }
            self.nothing_left_of(&KEYS, &one, &format!("{path}."));
            connections.extend(connection.map(|connection| (name, connection)));
        }
        connections
    }

    fn connection(&mut self, table: &mut Table<'_>, name: &str) -> Option<Connection> {
        let path = &format!("connections.{name}");
        let at = self.place(table, "url");
        let url = self.string(table, path, "url");
        let file = self.string(table, path, "password_file").map(PathBuf::from);
        let env = self.string(table, path, "password_env");
        let tls_ca = self.string(table, path, "tls_ca").map(PathBuf::from);
        let mut remember_for = REMEMBER_FOR;
        let sentinel_file = self.string(table, path, "sentinel_password_file").map(PathBuf::from);
        // They are of one kind of broker alone: the note of a run and the keys that kombu uses; the keys of NATS.
        let only = [("remember_for", Broker::Redis), ("celery", Broker::Redis), ("creds_file", Broker::Nats)];
        let only = only.map(|(key, of)| (key, of, self.place(table, key)));
        let creds_file = self.string(table, path, "creds_file").map(PathBuf::from);
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
        let Address { url, servers, password: known, broker, master } = match address::read(&url) {
            Ok(address) => address,
            Err(reason) => {
                self.problem(at, &key, &reason);
                return None;
            }
        };
        let given = Given { known, file, env, creds: creds_file.is_some() };
        if let Err(reason) = given.check(broker, !url.username().is_empty()) {
            self.problem(at, path, &reason);
        }
        if sentinel_file.is_some() && master.is_none() {
            let reason = "has no meaning without sentinels: use a redis-sentinel:// URL";
            self.problem(None, &format!("{path}.sentinel_password_file"), reason);
        }
        let sentinel = master.map(|master| Sentinel {
            master,
            password: sentinel_file.map_or(Password::None, Password::File),
        });
        let password = given.password();
        let name = name.to_owned();
        let connection =
            Connection { name, url, servers, sentinel, password, creds_file, tls_ca, remember_for, celery };
        if connection.tls_ca.is_some() && !connection.is_tls() {
            let reason = format!("has no meaning without TLS: use {} URL", broker.with_tls());
            self.problem(None, &format!("{path}.tls_ca"), &reason);
        }
        for (key, of, at) in only.into_iter().filter(|(_, of, at)| at.is_some() && *of != broker) {
            let reason = format!("has no meaning for {}; it is of {}", broker.name(), of.name());
            self.problem(at, &format!("{path}.{key}"), &reason);
        }
        Some(connection)
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
        self.nothing_left_of(&CELERY_KEYS, &section, &format!("{path}."));
        options
    }
}

/// Where the password of a connection is said to be.
struct Given {
    known: Option<Secret>,
    file: Option<PathBuf>,
    env: Option<String>,
    /// There is a file of credentials.
    creds: bool,
}

impl Given {
    fn check(&self, broker: Broker, has_name: bool) -> Result<(), String> {
        let named = [self.known.is_some(), self.file.is_some(), self.env.is_some(), self.creds];
        let named = named.into_iter().filter(|named| *named).count();
        let nats = broker == Broker::Nats;
        if named > 1 {
            let creds = if nats { ", creds_file" } else { "" };
            return Err(format!(
                "has more than one of a password in its url, password_file{creds} and password_env"
            ));
        }
        // Other clients of NATS take such a name for a token; here a name is shown, and a token must not be.
        if nats && has_name && (named == 0 || self.creds) {
            return Err(
                "has a name in its url and no password for it; a token is a password without a name, \
                        and credentials (creds_file) have a name of their own"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn password(self) -> Password {
        match (self.known, self.file, self.env) {
            (Some(secret), _, _) => Password::Known(secret),
            (None, Some(file), _) => Password::File(file),
            (None, None, Some(variable)) => Password::Env(variable),
            (None, None, None) => Password::None,
        }
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

#[cfg(test)]
mod tests;
