//! What is told of a server that does not greet. Its words are not repeated: some quote the command that they refuse, and
//! this one may have had a password. Its code is, and what is known of the cause.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::super::broker::Failure;
use crate::config::connections::Connection;

/// Why a server was not greeted.
pub(super) fn greeted(connection: &Connection, error: &RedisError) -> Failure {
    Failure::Unreachable(match error.kind() {
        ErrorKind::Io if error.is_timeout() => late(connection),
        ErrorKind::Io
            if error.is_connection_dropped() && !error.is_connection_refusal() && !connection.is_tls() =>
        {
            format!(
                "{}; a port with TLS drops a connection without: then the URL is to begin with rediss://",
                words(error)
            )
        }
        ErrorKind::Io | ErrorKind::Client => words(error),
        ErrorKind::AuthenticationFailed => "it does not take the password, or the name with it".to_owned(),
        _ => refused(error).unwrap_or_else(|| match error.code() {
            Some("ERR") if error.detail().is_some_and(|words| words.contains("DB index")) => {
                format!("ERR: it has no database {}", connection.database())
            }
            Some("ERR") if connection.database() != 0 => {
                format!("ERR: it refuses the greeting, or database {}", connection.database())
            }
            Some(code) => format!("it refuses the greeting: {}", plain(code)),
            None => format!("what answers does not speak as Redis does: {}", error.category()),
        }),
    })
}

/// Why a sentinel does not say who the master is.
pub(super) fn asked(connection: &Connection, error: &RedisError) -> Failure {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ResponseError) => Failure::Unreachable(
            "ERR: it is no sentinel; behind redis-sentinel:// there are sentinels (port 26379), and not the server itself"
                .to_owned(),
        ),
        _ => greeted(connection, error),
    }
}

/// What an account lacks.
fn refused(error: &RedisError) -> Option<String> {
    Some(match error.code()? {
        "NOAUTH" => "NOAUTH: it wants a password, and the connection has none".to_owned(),
        "WRONGPASS" => "WRONGPASS: it does not take the password, or the name with it".to_owned(),
        "NOPERM" => {
            // `… has no permissions to run the 'script|load' command`
            let command = error.detail().and_then(|words| words.split('\'').nth(1)).unwrap_or_default();
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"|-_.".contains(&byte);
            match !command.is_empty() && command.bytes().all(is_name) {
                true => {
                    format!("NOPERM: the account may not use {}", command.to_uppercase().replace('|', " "))
                }
                false => "NOPERM: the account may not use what the connection needs".to_owned(),
            }
        }
        "LOADING" => "LOADING: it starts, and reads its data".to_owned(),
        _ => return None,
    })
}

/// A code, as far as it is one.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_uppercase).take(32).collect()
}

/// What is told of a server that did not greet in time.
pub(super) fn late(connection: &Connection) -> String {
    match connection.is_tls() {
        false => "it did not answer in time".to_owned(),
        true => "it did not answer in time; a port without TLS does not".to_owned(),
    }
}

/// An I/O error in the words of the operating system.
pub(super) fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    std::error::Error::source(error).map_or_else(|| error.category().to_owned(), ToString::to_string)
}
