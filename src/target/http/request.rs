//! The request of an order, checked, and what becomes of it when the server sends it elsewhere.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, LOCATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Method as Verb, Url};

use super::failure::CallFailure;
use super::reach::{OutOfBounds, Reach};
use crate::target::told::{IDEMPOTENCY_KEY, is_reserved_header, told};
use crate::target::{Http, INPUT_BYTES_MAX, Method, Order, default_success};

/// The headers of a job, at most.
const HEADERS_MAX: usize = 64;
/// Their names and values together, at most.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// A URL, at most.
const URL_BYTES_MAX: usize = 8 * 1024;
/// What a request calls itself unless the job says otherwise.
const USER_AGENT_DEFAULT: &str = concat!("chronarch/", env!("CARGO_PKG_VERSION"));

/// Why no request was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSent {
    #[error("url: not a URL: {0}")]
    BadUrl(String),
    #[error("url: more than {URL_BYTES_MAX} bytes")]
    UrlTooLong,
    #[error("url: {0}")]
    OutOfBounds(#[from] OutOfBounds),
    #[error("body: more than {INPUT_BYTES_MAX} bytes")]
    BodyTooLarge,
    #[error("headers: more than {HEADERS_MAX}, or {HEADERS_BYTES_MAX} bytes")]
    HeadersTooLarge,
    #[error("headers: {0:?} is not a header's name")]
    BadName(String),
    #[error("headers: the value of {0} cannot be sent")]
    BadValue(String),
    #[error("headers: {0} comes twice")]
    Twice(HeaderName),
    #[error("headers: {0} is set by the scheduler and cannot be overridden")]
    Reserved(HeaderName),
}

/// A request as it is sent next: the order's at first, later what a redirect made of it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) url: Url,
    /// What the job set; it belongs to the host that the job named.
    own: HeaderMap,
    /// What every target is told.
    told: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
}

impl Request {
    pub(super) fn new(order: &Order, http: &Http, reach: &Reach) -> Result<Self, NotSent> {
        if http.url.len() > URL_BYTES_MAX {
            return Err(NotSent::UrlTooLong);
        }
        let url = Url::parse(&http.url).map_err(|error| NotSent::BadUrl(error.to_string()))?;
        reach.check(&url)?;
        if http.body.as_ref().is_some_and(|body| body.len() > INPUT_BYTES_MAX) {
            return Err(NotSent::BodyTooLarge);
        }
        let own = own_headers(http)?;
        let told = told_headers(order)?;
        Ok(Self { verb: verb(http.method), url, own, told, body: http.body.clone() })
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut all = self.own.clone();
        all.extend(self.told.clone());
        all.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_DEFAULT));
        all
    }

    /// The request that the response asks for; None if the response is the end.
    pub(super) fn redirected(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        reach: &Reach,
    ) -> Result<Option<Self>, CallFailure> {
        let Some(location) = headers.get(LOCATION).filter(|_| is_redirect(status.as_u16())) else {
            return Ok(None);
        };
        let location = location.to_str().map_err(|_| CallFailure::BadRedirect)?;
        if location.len() > URL_BYTES_MAX {
            return Err(CallFailure::BadRedirect);
        }
        let url = self.url.join(location).map_err(|_| CallFailure::BadRedirect)?;
        reach.check(&url).map_err(CallFailure::RedirectOutOfBounds)?;
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(CallFailure::Downgrade);
        }
        let mut next = Self { url, ..self.clone() };
        if becomes_get(status, &self.verb) {
            next.verb = Verb::GET;
            next.body = None;
            next.own = without(&self.own, |name| !name.as_str().starts_with("content-"));
        }
        if self.url.origin() != next.url.origin() {
            // any header may hold a credential (x-api-key), not only those that are known to
            next.own = without(&next.own, |name| {
                [ACCEPT, ACCEPT_LANGUAGE, USER_AGENT].contains(name) || name.as_str().starts_with("content-")
            });
        }
        Ok(Some(next))
    }
}

/// Whether a redirect leaves only the wish to read (RFC 9110, 15.4; browsers do it for 301 and 302 after POST).
fn becomes_get(status: StatusCode, verb: &Verb) -> bool {
    match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *verb == Verb::POST,
        StatusCode::SEE_OTHER => *verb != Verb::HEAD,
        _ => false,
    }
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Whether a status code means success.
pub(super) fn is_success(ranges: &[RangeInclusive<u16>], status: u16) -> bool {
    if ranges.is_empty() {
        return default_success().iter().any(|range| range.contains(&status));
    }
    ranges.iter().any(|range| range.contains(&status))
}

fn without(headers: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    headers.iter().filter(|(name, _)| keep(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn verb(method: Method) -> Verb {
    match method {
        Method::Get => Verb::GET,
        Method::Post => Verb::POST,
        Method::Put => Verb::PUT,
        Method::Patch => Verb::PATCH,
        Method::Delete => Verb::DELETE,
        Method::Head => Verb::HEAD,
    }
}

fn own_headers(http: &Http) -> Result<HeaderMap, NotSent> {
    let bytes: usize = http.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if http.headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
        return Err(NotSent::HeadersTooLarge);
    }
    let mut own = HeaderMap::with_capacity(http.headers.len());
    for (name, value) in &http.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| NotSent::BadName(name.chars().take(64).collect()))?;
        // framing is the client's business: a wrong length or a hop-by-hop header would smuggle a second request
        let is_framing =
            [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, TRAILER, HOST].contains(&name);
        if is_framing || is_reserved_header(name.as_str()) {
            return Err(NotSent::Reserved(name));
        }
        let mut value = HeaderValue::from_str(value).map_err(|_| NotSent::BadValue(name.to_string()))?;
        value.set_sensitive(true);
        if own.insert(&name, value).is_some() {
            return Err(NotSent::Twice(name));
        }
    }
    Ok(own)
}

fn told_headers(order: &Order) -> Result<HeaderMap, NotSent> {
    let mut headers = HeaderMap::new();
    let key = (Cow::Borrowed(IDEMPOTENCY_KEY), order.run_id.clone());
    for (name, value) in told(order).into_iter().map(|told| (told.header, told.value)).chain([key]) {
        let value = HeaderValue::from_str(&value).map_err(|_| NotSent::BadValue(name.to_string()))?;
        let name = match name {
            Cow::Borrowed(name) => HeaderName::from_static(name),
            Cow::Owned(name) => HeaderName::try_from(&name).map_err(|_| NotSent::BadName(name))?,
        };
        headers.insert(name, value);
    }
    Ok(headers)
}
