//! Finds the server of a connection, and says who asks.
//!
//! With sentinels, each is asked in turn who the master is, and that server, who it is itself: sentinels may not have heard
//! yet that it is one no more, and a server may not know it, which then still takes what will be lost with it. What can be
//! known from here ends there; `min-replicas-to-write` is the server's own guard.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::super::broker::{BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, Failure, password};
use super::Link;
use crate::config::connections::{Connection, Password, Sentinel, Server};

/// Where servers and sentinels listen unless it is said.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

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

/// Why a server was not greeted. Its words are not repeated: some quote the command that they refuse, and this one may
/// have had a password.
pub(super) fn greeted(error: &RedisError) -> Failure {
    Failure::Unreachable(match error.kind() {
        ErrorKind::Io => words(error),
        ErrorKind::AuthenticationFailed => "it does not take the password".to_owned(),
        _ => format!("its greeting failed: {}", error.category()),
    })
}

/// An I/O error in the words of the operating system.
pub(super) fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    std::error::Error::source(error).map_or_else(|| error.category().to_owned(), ToString::to_string)
}

/// A failure with the name of the one whom it is about.
fn of(whom: &str, server: &Server, failure: Failure) -> Failure {
    let at = format!("{whom} {}:{}", server.host, server.port.unwrap_or(SENTINEL_PORT));
    match failure {
        Failure::Unreachable(why) => Failure::Unreachable(format!("{at}: {why}")),
        other => other,
    }
}

impl Link {
    /// A client of the server that takes what is written.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        let Some(sentinel) = &self.connection.sentinel else {
            let server = Server {
                host: self.connection.host().to_owned(),
                port: Some(self.connection.url.port().unwrap_or(PORT)),
            };
            return self.client_of(&server, self.greeting().await?).await;
        };
        let mut failure = Failure::Unreachable("the url names no sentinel".to_owned());
        for server in &self.connection.servers {
            failure = match timeout(BROKER_CONNECT_TIMEOUT, self.master(server, sentinel)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(why)) => of("sentinel", server, why),
                Err(_) => {
                    of("sentinel", server, Failure::Unreachable("it did not answer in time".to_owned()))
                }
            };
        }
        Err(failure)
    }

    /// A client of the master that the sentinel names.
    async fn master(&self, at: &Server, sentinel: &Sentinel) -> Result<Client, Failure> {
        let at = Server { port: Some(at.port.unwrap_or(SENTINEL_PORT)), ..at.clone() };
        let client = self.client_of(&at, secret(as_us(), &sentinel.password).await?).await?;
        let connected = client.get_multiplexed_async_connection_with_config(&config()).await;
        let mut connection = connected.map_err(|error| greeted(&error))?;
        let mut asked = ::redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinel.master);
        let named: Option<(String, u16)> =
            asked.query_async(&mut connection).await.map_err(|error| greeted(&error))?;
        let Some((host, port)) = named else {
            return Err(Failure::Unreachable(format!("it knows no master {:?}", sentinel.master)));
        };
        let master = Server { host, port: Some(port) };
        let client = self.client_of(&master, self.greeting().await?).await?;
        let connected = client.get_multiplexed_async_connection_with_config(&config()).await;
        let mut connection = connected.map_err(|error| of("its master", &master, greeted(&error)))?;
        match role(&mut connection).await.as_deref() {
            Some("master") | None => Ok(client),
            Some(other) => {
                let why = format!("it is a {other}, and no master (any more)");
                Err(of("its master", &master, Failure::Unreachable(why)))
            }
        }
    }

    async fn greeting(&self) -> Result<RedisConnectionInfo, Failure> {
        let mut greeting = as_us().set_db(self.connection.database());
        if let Some(name) = self.connection.username() {
            greeting = greeting.set_username(name);
        }
        secret(greeting, &self.connection.password).await
    }

    async fn client_of(&self, server: &Server, greeting: RedisConnectionInfo) -> Result<Client, Failure> {
        let unusable =
            |what: &str, why: &dyn std::fmt::Display| Failure::Unreachable(format!("{what}: {why}"));
        let (host, port) = (server.host.clone(), server.port.unwrap_or(PORT));
        let address = match self.connection.is_tls() {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info().map_err(|why| unusable("url", &why.category()))?;
        let info = info.set_redis_settings(greeting);
        let client = match &self.connection.tls_ca {
            Some(path) => {
                let root = tokio::fs::read(path).await.map_err(|why| unusable("tls_ca", &why))?;
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

async fn secret(greeting: RedisConnectionInfo, of: &Password) -> Result<RedisConnectionInfo, Failure> {
    Ok(match password(of).await? {
        Some(secret) => greeting.set_password(secret),
        None => greeting,
    })
}

/// Who a server says that it is; None: it does not. It is asked by the one command that no account can be kept from.
async fn role(connection: &mut ::redis::aio::MultiplexedConnection) -> Option<String> {
    let told: HashMap<String, Value> = ::redis::cmd("HELLO").query_async(connection).await.ok()?;
    ::redis::from_redis_value(told.get("role")?.clone()).ok()
}
