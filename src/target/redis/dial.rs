//! Finds the server of a connection, and says who asks.
//!
//! With sentinels, each is asked in turn who the master is, and that server, who it is itself: sentinels may not have heard
//! yet that it is one no more, and a server may not know it, which then still takes what will be lost with it. The one that
//! last knew of a change is asked first, and what changes later is heard of (`moves`). What can be known from here ends
//! there; `min-replicas-to-write` is the server's own guard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates,
    Value,
};
use tokio::time::timeout;

use super::super::broker::{BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, Failure, password};
use super::greeting::{asked, greeted, late};
use crate::config::connections::{Connection, Password, Server};

/// How long opening a connection may take: each sentinel has its time.
pub(super) fn patience(connection: &Connection) -> Duration {
    let sentinels = connection.sentinel.as_ref().map_or(0, |_| connection.servers.len());
    BROKER_CONNECT_TIMEOUT * u32::try_from(sentinels + 1).unwrap_or(u32::MAX)
}

pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(BROKER_CONNECT_TIMEOUT))
        .set_response_timeout(Some(BROKER_ANSWER_TIMEOUT))
}

/// A failure with the name of the one whom it is about.
fn of(whom: &str, host: &str, port: u16, failure: Failure) -> Failure {
    match failure {
        Failure::Unreachable(why) => Failure::Unreachable(format!("{whom} {host}:{port}: {why}")),
        other => other,
    }
}

/// Finds the server of one connection.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) connection: Connection,
    /// The sentinel that last knew who the master is.
    first: AtomicUsize,
}

/// A server that takes what is written.
pub(super) struct Found {
    pub(super) client: Client,
    /// The word of a sentinel, where one said so.
    pub(super) named: Option<Named>,
}

/// A master, and the number of the sentinel that named it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) by: usize,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Named {
    pub(super) fn is(&self, host: &str, port: &str) -> bool {
        self.host == host && port.parse() == Ok(self.port)
    }
}

impl Dialer {
    pub(super) const fn new(connection: Connection) -> Self {
        Self { connection, first: AtomicUsize::new(0) }
    }

    /// The name of the master, where there are sentinels.
    pub(super) fn master(&self) -> &str {
        self.connection.sentinel.as_ref().map_or("", |sentinel| sentinel.master.as_str())
    }

    /// That sentinel knows more than others.
    pub(super) fn asks_first(&self, sentinel: usize) {
        self.first.store(sentinel, Ordering::Relaxed);
    }

    fn at(&self, number: usize) -> (&str, u16) {
        let Server { host, port } = &self.connection.servers[number];
        (host, port.unwrap_or_else(|| self.connection.usual_port()))
    }

    /// The server that takes what is written.
    pub(super) async fn find(&self) -> Result<Found, Failure> {
        if self.connection.sentinel.is_none() {
            let port = self.connection.url.port().unwrap_or_else(|| self.connection.usual_port());
            let client = self.client_of(self.connection.host(), port, self.greeting().await?).await?;
            return Ok(Found { client, named: None });
        }
        let mut failure = Failure::Unreachable("the url names no sentinel".to_owned());
        let (all, first) = (self.connection.servers.len(), self.first.load(Ordering::Relaxed));
        for number in (first..all).chain(0..first) {
            let found = timeout(BROKER_CONNECT_TIMEOUT, self.found_by(number)).await;
            let late = |_| Failure::Unreachable(late(&self.connection));
            match found.map_err(late).flatten() {
                Ok(found) => {
                    self.asks_first(number);
                    return Ok(found);
                }
                Err(why) => {
                    let (host, port) = self.at(number);
                    failure = of("sentinel", host, port, why);
                }
            }
        }
        Err(failure)
    }

    /// The master that the sentinel names.
    async fn found_by(&self, number: usize) -> Result<Found, Failure> {
        let (host, port) = self.named(&self.sentinel(number).await?).await?;
        let client = self.client_of(&host, port, self.greeting().await?).await?;
        let connected = client.get_multiplexed_async_connection_with_config(&config()).await;
        let of_master = |why| of("its master", &host, port, why);
        let mut connection = connected.map_err(|error| of_master(greeted(&self.connection, &error)))?;
        match role(&mut connection).await.as_deref() {
            Some("master") | None => Ok(Found { client, named: Some(Named { by: number, host, port }) }),
            Some(other) => {
                let why = format!("it is a {other}, and no master (any more)");
                Err(of_master(Failure::Unreachable(why)))
            }
        }
    }

    /// A client of a sentinel.
    pub(super) async fn sentinel(&self, number: usize) -> Result<Client, Failure> {
        let (host, port) = self.at(number);
        let password = self.connection.sentinel.as_ref().map_or(&Password::None, |it| &it.password);
        let greeting = secret(as_us(), "sentinel_", password).await?;
        self.client_of(host, port, greeting).await
    }

    /// Whom a sentinel names, by a connection of its own.
    pub(super) async fn named(&self, sentinel: &Client) -> Result<(String, u16), Failure> {
        let connected = sentinel.get_multiplexed_async_connection_with_config(&config()).await;
        let unasked = |error| asked(&self.connection, &error);
        let mut connection = connected.map_err(unasked)?;
        let mut ask = ::redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(self.master());
        let named: Option<(String, u16)> = ask.query_async(&mut connection).await.map_err(unasked)?;
        named.ok_or_else(|| Failure::Unreachable(format!("it knows no master {:?}", self.master())))
    }

    async fn greeting(&self) -> Result<RedisConnectionInfo, Failure> {
        let mut greeting = as_us().set_db(self.connection.database());
        if let Some(name) = self.connection.username() {
            greeting = greeting.set_username(name);
        }
        secret(greeting, "", &self.connection.password).await
    }

    async fn client_of(
        &self,
        host: &str,
        port: u16,
        greeting: RedisConnectionInfo,
    ) -> Result<Client, Failure> {
        let unusable =
            |what: &str, why: &dyn std::fmt::Display| Failure::Unreachable(format!("{what}: {why}"));
        let host = host.to_owned();
        let address = match self.connection.is_tls() {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info().map_err(|why| unusable("url", &why.category()))?;
        let info = info.set_redis_settings(greeting);
        let client = match &self.connection.tls_ca {
            Some(path) => {
                let root = tokio::fs::read(path).await;
                let root = root.map_err(|why| unusable(&format!("tls_ca: {}", path.display()), &why))?;
                let trusted = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(info, trusted)
            }
            None => Client::open(info),
        };
        client.map_err(|why| unusable("tls_ca", &why.category()))
    }
}

fn as_us() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_lib_name("chronarch", env!("CARGO_PKG_VERSION"))
}

async fn secret(
    greeting: RedisConnectionInfo,
    whose: &str,
    of: &Password,
) -> Result<RedisConnectionInfo, Failure> {
    Ok(match password(whose, of).await? {
        Some(secret) => greeting.set_password(secret),
        None => greeting,
    })
}

/// Who a server says that it is; None: it does not. It is asked by the one command that no account can be kept from.
async fn role(connection: &mut ::redis::aio::MultiplexedConnection) -> Option<String> {
    let told: HashMap<String, Value> = ::redis::cmd("HELLO").query_async(connection).await.ok()?;
    ::redis::from_redis_value(told.get("role")?.clone()).ok()
}
