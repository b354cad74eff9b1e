//! Params in the texts of targets: `{{ params.day }}` stands for the value that the run has for `day`.
//!
//! A value is whatever a client or a run before this one said, so it is put in by the rules of the place where it
//! stands, and by those alone: percent-encoded in a URL and in a form, escaped in a string of JSON, as it is in a header
//! and in plain text. Where there are no such rules there are no params either. Everything else that stands between
//! `{{` and `}}` is left as it is, for bodies may be templates of somebody else's.
//!
//! `api` fills in texts with [`stand_ins`] and refuses a job whose texts cannot be filled in. Whoever carries out an
//! attempt, or hands it to a worker of the user's own, fills them in with the values of the run.
//!
//! # Invariants
//! - No value changes scheme, host, port, the number of segments of the path, or of pairs in the query.
//! - No value ends the string of JSON that it stands in.
//! - The same text with the same values is the same text everywhere.
//!
//! It does not look into headers: that one cannot hold a value is found where it is sent. It knows no conditions,
//! loops, filters or defaults; a param has a default in its job.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;

use super::limits::TEMPLATE_PARAMS;

/// All but what RFC 3986 calls unreserved: what is left means the same in each part of a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Stands for any value where only the text around it matters. Outside of a string it is no JSON.
const STAND_IN: &str = "x";

/// Why a text cannot be filled in. Repeats no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It begins like a param and is none.
    #[error("at byte {0}: expected a param such as {{{{ params.day }}}}")]
    Form(usize),
    /// Too many of them.
    #[error("more than {TEMPLATE_PARAMS} params")]
    TooMany,
    /// The run, or the job, has none of this name.
    #[error("there is no param {0}")]
    Unknown(String),
    /// It would decide where a request goes.
    #[error("a param stands in the path or the query of an http or https URL, nowhere else")]
    UrlPart,
    /// Characters that readers of URLs drop.
    #[error("with params in it a URL has neither blanks nor control characters")]
    UrlBlank,
    /// `%{{ params.day }}`.
    #[error("a param cannot go on with a percent-encoded character")]
    CutEscape,
    /// A value that makes a segment go away, or go up.
    #[error("a segment of the path would be empty, `.` or `..`")]
    Segment,
    /// It would be more than a value.
    #[error("with params in it, it has to be JSON in which they stand within strings")]
    Json,
    /// Nobody knows what a value may mean there.
    #[error("params stand only in bodies of one content type: JSON, a form, text/plain, or none at all")]
    ContentType,
    /// It would decide how others are put in.
    #[error("the content type takes no params")]
    TypeHeader,
}

/// Values of params by their names.
pub type Params = BTreeMap<String, String>;

/// Values with which everything that depends on the text alone can be told.
#[must_use]
pub fn stand_ins(params: &Params) -> Params {
    params.keys().map(|name| (name.clone(), STAND_IN.to_owned())).collect()
}

/// Whether anything of a text is, or begins like, a param.
#[must_use]
pub fn has_params(text: &str) -> bool {
    !matches!(pieces(text), Ok(None))
}

#[derive(Clone, Copy)]
enum Piece<'a> {
    Text(&'a str),
    Param(&'a str),
}

/// The pieces of a text that has params; nothing where it has none.
fn pieces(text: &str) -> Result<Option<Vec<Piece<'_>>>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut taken, mut at, mut count) = (0, 0, 0);
    while let Some(found) = text[at..].find("{{") {
        let open = at + found;
        let inner = text[open + 2..].trim_start_matches(' ');
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let Some(rest) = inner.strip_prefix("params").filter(|rest| !rest.starts_with(is_of_name)) else {
            at = open + 1;
            continue;
        };
        let (name, rest) = named(rest).ok_or(TemplateError::Form(open))?;
        count += 1;
        if count > TEMPLATE_PARAMS {
            return Err(TemplateError::TooMany);
        }
        pieces.extend([Piece::Text(&text[taken..open]), Piece::Param(name)]);
        (taken, at) = (text.len() - rest.len(), text.len() - rest.len());
    }
    pieces.push(Piece::Text(&text[taken..]));
    Ok((count > 0).then_some(pieces))
}

/// Reads `.day }}`: the name, and what follows.
fn named(rest: &str) -> Option<(&str, &str)> {
    let rest = rest.strip_prefix('.')?;
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let end = rest.find(|c| !is_of_name(c))?;
    let (name, rest) = rest.split_at(end);
    let rest = rest.trim_start_matches(' ').strip_prefix("}}")?;
    name.starts_with(|c: char| c.is_ascii_lowercase()).then_some((name, rest))
}

fn value<'a>(name: &str, params: &'a Params) -> Result<&'a str, TemplateError> {
    params.get(name).map(String::as_str).ok_or_else(|| TemplateError::Unknown(name.to_owned()))
}

fn fill(
    pieces: &[Piece<'_>],
    params: &Params,
    escaped: impl Fn(&str) -> String,
) -> Result<String, TemplateError> {
    let mut filled = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Param(name) => filled.push_str(&escaped(value(name, params)?)),
        }
    }
    Ok(filled)
}

fn percent_encoded(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

/// A value as it stands within a string of JSON.
fn json_escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A URL. Values are percent-encoded, and stand in path and query alone.
///
/// # Errors
/// [`TemplateError`].
pub fn url<'a>(text: &'a str, params: &Params) -> Result<Cow<'a, str>, TemplateError> {
    let Some(pieces) = pieces(text)? else { return Ok(text.into()) };
    let [Piece::Text(first), rest @ ..] = pieces.as_slice() else { return Err(TemplateError::UrlPart) };
    let mut filling = Filling::after_authority(first)?;
    for piece in rest {
        match piece {
            Piece::Text(text) => filling.text(text)?,
            Piece::Param(name) => filling.value(&percent_encoded(value(name, params)?))?,
        }
    }
    filling.end().map(Cow::from)
}

/// Where in a URL the filling has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
    Fragment,
}

struct Filling {
    filled: String,
    part: Part,
    /// Where the segment begins, and whether a value stands in it.
    segment: (usize, bool),
}

impl Filling {
    /// Reads scheme and authority, which must be whole in the text before the first param: readers of URLs are lenient
    /// (WHATWG), and `https:/{{ params.x }}` would be a host to them.
    fn after_authority(first: &str) -> Result<Self, TemplateError> {
        let is_scheme =
            |scheme: &&str| first.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        let scheme = ["http://", "https://"].into_iter().find(is_scheme).ok_or(TemplateError::UrlPart)?;
        let authority = first[scheme.len()..].find(['/', '\\', '?', '#']).filter(|length| *length > 0);
        let (head, path) = first.split_at(scheme.len() + authority.ok_or(TemplateError::UrlPart)?);
        blankless(head)?;
        let mut filling = Self { filled: head.to_owned(), part: Part::Path, segment: (head.len(), false) };
        filling.text(path)?;
        Ok(filling)
    }

    fn text(&mut self, text: &str) -> Result<(), TemplateError> {
        blankless(text)?;
        for character in text.chars() {
            let next = match (self.part, character) {
                (Part::Path, '/' | '\\') => Some(Part::Path),
                (Part::Path, '?') => Some(Part::Query),
                (Part::Path | Part::Query, '#') => Some(Part::Fragment),
                (Part::Path | Part::Query | Part::Fragment, _) => None,
            };
            if let Some(next) = next {
                self.end_segment()?;
                self.part = next;
            }
            self.filled.push(character);
            if next.is_some() {
                self.segment = (self.filled.len(), false);
            }
        }
        Ok(())
    }

    fn value(&mut self, encoded: &str) -> Result<(), TemplateError> {
        if self.part == Part::Fragment {
            return Err(TemplateError::UrlPart);
        }
        // What was put in ends with no part of an escape, so this one is of the text.
        let [.., before, last] = self.filled.as_bytes() else { return Err(TemplateError::UrlPart) };
        if *last == b'%' || *before == b'%' {
            return Err(TemplateError::CutEscape);
        }
        self.filled.push_str(encoded);
        self.segment.1 = true;
        Ok(())
    }

    fn end_segment(&self) -> Result<(), TemplateError> {
        let (begins, has_value) = self.segment;
        if self.part != Part::Path || !has_value {
            return Ok(());
        }
        // `%2e` is a dot to readers of URLs.
        let segment = self.filled[begins..].to_ascii_lowercase().replace("%2e", ".");
        if ["", ".", ".."].contains(&segment.as_str()) { Err(TemplateError::Segment) } else { Ok(()) }
    }

    fn end(self) -> Result<String, TemplateError> {
        self.end_segment()?;
        Ok(self.filled)
    }
}

/// Readers of URLs drop some of these, wherever they stand.
fn blankless(text: &str) -> Result<(), TemplateError> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) { Err(TemplateError::UrlBlank) } else { Ok(()) }
}

/// The value of a header, or of an entry of metadata: values are put in as they are.
///
/// # Errors
/// [`TemplateError`].
pub fn header<'a>(name: &str, text: &'a str, params: &Params) -> Result<Cow<'a, str>, TemplateError> {
    let Some(pieces) = pieces(text)? else { return Ok(text.into()) };
    if is_content_type(name) {
        return Err(TemplateError::TypeHeader);
    }
    fill(&pieces, params, str::to_owned).map(Cow::from)
}

fn is_content_type(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-type")
}

/// The body of a request with these headers, by its content type. Without any it is JSON when it begins like that.
///
/// # Errors
/// [`TemplateError`].
pub fn body<'a>(
    text: &'a str,
    headers: &BTreeMap<String, String>,
    params: &Params,
) -> Result<Cow<'a, str>, TemplateError> {
    let Some(pieces) = pieces(text)? else { return Ok(text.into()) };
    let mut types = headers.iter().filter(|(name, _)| is_content_type(name)).map(|(_, kind)| kind);
    let kind = match (types.next(), types.next()) {
        (None, _) => return untyped(&pieces, params).map(Cow::from),
        (Some(kind), None) => kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        (Some(_), Some(_)) => return Err(TemplateError::ContentType),
    };
    let filled = match kind.as_str() {
        "text/plain" => fill(&pieces, params, str::to_owned),
        "application/x-www-form-urlencoded" => fill(&pieces, params, percent_encoded),
        kind if kind.ends_with("/json") || kind.ends_with("+json") => in_json(&pieces, params),
        _ => Err(TemplateError::ContentType),
    };
    filled.map(Cow::from)
}

/// What a worker of the user's own is given: a text of which nobody said what it is.
///
/// # Errors
/// [`TemplateError`].
pub fn payload<'a>(text: &'a str, params: &Params) -> Result<Cow<'a, str>, TemplateError> {
    body(text, &BTreeMap::new(), params)
}

/// A text that is JSON.
///
/// # Errors
/// [`TemplateError`].
pub fn json<'a>(text: &'a str, params: &Params) -> Result<Cow<'a, str>, TemplateError> {
    match pieces(text)? {
        None => Ok(text.into()),
        Some(pieces) => in_json(&pieces, params).map(Cow::from),
    }
}

fn untyped(pieces: &[Piece<'_>], params: &Params) -> Result<String, TemplateError> {
    let stood_in = fill(pieces, params, |_| STAND_IN.to_owned())?;
    if stood_in.trim_start().starts_with(['{', '[', '"']) {
        in_json(pieces, params)
    } else {
        fill(pieces, params, str::to_owned)
    }
}

fn in_json(pieces: &[Piece<'_>], params: &Params) -> Result<String, TemplateError> {
    let stood_in = fill(pieces, params, |_| STAND_IN.to_owned())?;
    serde_json::from_str::<IgnoredAny>(&stood_in).map_err(|_| TemplateError::Json)?;
    fill(pieces, params, json_escaped)
}

#[cfg(test)]
mod tests;
