//! Where http may go: hosts by name, addresses by kind.
//!
//! A URL is checked before each request, redirects included; a name's addresses are checked when it is resolved,
//! and the connection goes to the addresses that were checked, so that a name cannot mean one address to the rule
//! and another to the connection. The URL parser has already turned every spelling of an address (decimal, octal,
//! short) into the one that is judged here, and addresses that carry an IPv4 address inside are judged by it.
//!
//! The host rules see what the job asked for; the address scope sees where that leads. A name that is allowed but
//! leads to an address that is not is refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses http may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressScope {
    /// All but link-local ones, where clouds keep the machine's credentials (169.254.169.254), and those that name
    /// no single host. The default.
    #[default]
    NotLinkLocal,
    /// Only addresses that the whole Internet can reach: no loopback, private or shared networks either.
    Public,
    /// Any address at all.
    Any,
}

/// A rule of `allowed_hosts` is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host, *.host or address with an optional :port")]
pub struct HostRuleError(String);

/// Why a place is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::target) enum OutOfBounds {
    #[error("scheme {0:?} is not http or https")]
    Scheme(String),
    #[error("host {0:?} is not among the hosts that this worker allows")]
    Host(String),
    #[error("address {0} is not one that this worker may connect to")]
    Address(IpAddr),
}

/// A name could not be turned into an address that may be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::target) enum ResolveError {
    #[error("cannot resolve {host:?}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot resolve {0:?}: no address")]
    NoAddress(String),
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HostRule {
    /// As the URL parser spells it, without brackets and the root's dot.
    host: String,
    /// The rule is for the names below `host`, not for `host` itself.
    below: bool,
    port: Option<u16>,
}

/// The rules of one worker.
#[derive(Debug, Clone)]
pub(in crate::target) struct Reach {
    hosts: Option<Vec<HostRule>>,
    scope: AddressScope,
}

impl Reach {
    pub(in crate::target) fn new(
        hosts: Option<&[String]>,
        scope: AddressScope,
    ) -> Result<Self, HostRuleError> {
        let hosts = hosts.map(|rules| rules.iter().map(|rule| HostRule::read(rule)).collect()).transpose()?;
        Ok(Self { hosts, scope })
    }

    /// Judges a URL as far as it can be judged before its name is resolved.
    pub(in crate::target) fn check(&self, url: &Url) -> Result<(), OutOfBounds> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OutOfBounds::Scheme(url.scheme().chars().take(32).collect()));
        }
        let host = plain_host(url);
        let port = url.port_or_known_default();
        let is_allowed = |rules: &Vec<HostRule>| rules.iter().any(|rule| rule.allows(&host, port));
        if !self.hosts.as_ref().is_none_or(is_allowed) {
            return Err(OutOfBounds::Host(host.chars().take(255).collect()));
        }
        match host.parse() {
            Ok(address) => self.check_address(address),
            Err(_) => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr) -> Result<(), OutOfBounds> {
        let text = address.to_string();
        let is_named = self.hosts.iter().flatten().any(|rule| !rule.below && rule.host == text);
        if is_named || self.scope.contains(address) { Ok(()) } else { Err(OutOfBounds::Address(address)) }
    }

    pub(in crate::target) async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let lookup = |source| ResolveError::Lookup { host: host.to_owned(), source };
        let mut refused = None;
        let mut usable = Vec::new();
        for address in tokio::net::lookup_host((host, 0)).await.map_err(lookup)? {
            match self.check_address(address.ip()) {
                Ok(()) => usable.push(address),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            _ if !usable.is_empty() => Ok(usable),
            Some(why) => Err(why.into()),
            None => Err(ResolveError::NoAddress(host.to_owned())),
        }
    }
}

/// [`Reach`] as the HTTP client calls it.
pub(super) struct CheckedResolver(pub(super) Arc<Reach>);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses: Addrs = Box::new(reach.resolve(name.as_str()).await?.into_iter());
            Ok(addresses)
        })
    }
}

impl HostRule {
    fn read(text: &str) -> Result<Self, HostRuleError> {
        let malformed = || HostRuleError(text.chars().take(255).collect());
        let (below, host) = match text.strip_prefix("*.") {
            Some(host) => (true, host),
            None => (false, text),
        };
        // a bare IPv6 address would read as host and port
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        if host.is_empty()
            || host.contains(['/', '?', '#', '@', '\\', '*'])
            || host.contains(char::is_whitespace)
        {
            return Err(malformed());
        }
        // the scheme has no default port that the parser would drop from the rule
        let url = Url::parse(&format!("ws://{host}")).map_err(|_| malformed())?;
        let port = match host.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port.parse().map_err(|_| malformed())?),
            Some(_) | None => None,
        };
        let host = plain_host(&url);
        if below && host.parse::<IpAddr>().is_ok() {
            return Err(malformed());
        }
        Ok(Self { host, below, port })
    }

    fn allows(&self, host: &str, port: Option<u16>) -> bool {
        let host_matches = if self.below {
            host.strip_suffix(&self.host).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            host == self.host
        };
        host_matches && (self.port.is_none() || self.port == port)
    }
}

/// The host in one spelling: no brackets around an address, no dot for the root.
pub(in crate::target) fn plain_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_owned()
}

impl AddressScope {
    fn contains(self, address: IpAddr) -> bool {
        let nowhere_or_everywhere =
            |v4: Ipv4Addr| v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast();
        let (link_local, no_host, inside) = match carried_v4(address) {
            IpAddr::V4(v4) => (v4.is_link_local(), nowhere_or_everywhere(v4), is_inside_v4(v4)),
            IpAddr::V6(v6) => (
                v6.is_unicast_link_local() || v6 == AWS_METADATA_V6,
                v6.is_unspecified() || v6.is_multicast(),
                v6.is_loopback() || v6.is_unique_local() || v6.segments()[0] & 0xE000 != 0x2000,
            ),
        };
        match self {
            Self::Any => true,
            Self::NotLinkLocal => !link_local && !no_host,
            Self::Public => !link_local && !no_host && !inside,
        }
    }
}

/// Where AWS serves the machine's credentials over IPv6; by its bits it is a private address like any other.
const AWS_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Loopback, private and shared networks, and those kept for documentation, tests and the future (RFC 6890).
fn is_inside_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    v4.is_loopback()
        || v4.is_private()
        || v4.is_documentation()
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240
}

/// The IPv4 address that an IPv6 address leads to: mapped (`::ffff:0:0/96`), compatible (`::/96`), translated
/// (NAT64, `64:ff9b::/96`) or tunnelled (6to4, `2002::/16`).
fn carried_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(reach: &Reach, url: &str) -> bool {
        reach.check(&Url::parse(url).expect("a URL of the test")).is_ok()
    }

    #[test]
    fn every_spelling_of_an_inner_address_is_out_of_public_scope() {
        let public = Reach::new(None, AddressScope::Public).expect("no rules");
        for inner in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "127.0.0.1.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:7f00:1::]",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "2852039166",
            "[::ffff:169.254.169.254]",
            "0.0.0.0",
            "0",
            "255.255.255.255",
            "224.0.0.1",
            "[fe80::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[::]",
            "192.0.0.8",
            "198.18.0.1",
            "240.0.0.1",
            "[100::1]",
            "１２７.０.０.１",
        ] {
            assert!(!permits(&public, &format!("http://{inner}/")), "{inner}");
        }
        for outer in ["93.184.216.34", "172.32.0.1", "100.128.0.1", "[2606:2800:220:1::1]", "example.com"] {
            assert!(permits(&public, &format!("https://{outer}/")), "{outer}");
        }
    }

    #[test]
    fn by_default_only_link_local_and_hostless_addresses_are_out_of_scope() {
        let reach = Reach::new(None, AddressScope::default()).expect("no rules");
        for (host, expected) in [
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("[::1]", true),
            ("169.254.169.254", false),
            ("[::ffff:a9fe:a9fe]", false),
            ("[fd00:ec2::254]", false),
            ("[fe80::1]", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(permits(&reach, &format!("http://{host}/")), expected, "{host}");
        }
    }

    #[test]
    fn only_http_and_https_are_schemes() {
        let any = Reach::new(None, AddressScope::Any).expect("no rules");
        for url in ["file:///etc/passwd", "ftp://example.com/", "unix:/run/docker.sock", "gopher://x/"] {
            assert!(!permits(&any, url), "{url}");
        }
    }

    #[test]
    fn host_rules_name_hosts_subdomains_addresses_and_ports() {
        let rules =
            ["API.example.com", "*.inner.test", "10.0.0.7:8080", "169.254.1.1", "::1", "port80.test:80"]
                .map(str::to_owned);
        let reach = Reach::new(Some(&rules), AddressScope::NotLinkLocal).expect("good rules");
        for (url, expected) in [
            ("https://api.example.com/x", true),
            ("https://api.example.com.:9/x", true),
            ("https://x.api.example.com/", false),
            ("https://api.example.com.evil.test/", false),
            ("https://user@evil.test/api.example.com", false),
            ("https://api.example.com@evil.test/", false),
            ("http://a.inner.test/", true),
            ("http://a.b.inner.test/", true),
            ("http://inner.test/", false),
            ("http://evilinner.test/", false),
            ("http://10.0.0.7:8080/", true),
            ("http://10.0.0.7/", false),
            ("http://167772167:8080/", true),
            ("http://169.254.1.1/", true),
            ("http://169.254.1.2/", false),
            ("http://[::1]:99/", true),
            ("http://port80.test/", true),
            ("https://port80.test/", false),
        ] {
            assert_eq!(permits(&reach, url), expected, "{url}");
        }
    }

    #[test]
    fn a_malformed_host_rule_is_named() {
        for rule in ["", "*.", "a/b", "http://a", "a b", "*.*.a", "*.10.0.0.1", "a:99999", "a:x", "u@a", "*"]
        {
            let error = Reach::new(Some(&[rule.to_owned()]), AddressScope::Any).expect_err(rule);
            assert_eq!(error, HostRuleError(rule.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_out_of_scope_is_refused_when_resolved() {
        let public = Reach::new(None, AddressScope::Public).expect("no rules");
        let refused = public.resolve("localhost").await;
        assert!(matches!(refused, Err(ResolveError::OutOfBounds(OutOfBounds::Address(_)))), "{refused:?}");
        let any = Reach::new(None, AddressScope::Any).expect("no rules");
        assert!(!any.resolve("localhost").await.expect("every machine knows itself").is_empty());
    }
}
