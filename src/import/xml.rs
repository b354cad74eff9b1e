//! Going over XML element by element.

use std::time::Duration;

use roxmltree::{Document, Node};

use super::{Loss, Sheet};

/// A node of the file with what a message about it needs.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) node: Node<'a, 'a>,
    /// Where each line of the file begins, in bytes.
    lines: &'a [usize],
}

impl<'a> Element<'a> {
    pub(super) fn name(self) -> &'a str {
        self.node.tag_name().name()
    }

    pub(super) fn line(self) -> usize {
        let start = self.node.range().start;
        self.lines.partition_point(|line| *line <= start)
    }

    pub(super) fn text(self) -> &'a str {
        self.node.text().unwrap_or_default().trim()
    }

    pub(super) fn children(self) -> impl Iterator<Item = Element<'a>> {
        self.node.children().filter(Node::is_element).map(move |node| Element { node, ..self })
    }

    pub(super) fn child(self, name: &str) -> Option<Element<'a>> {
        self.children().find(|child| child.name() == name)
    }

    pub(super) fn flag(self) -> bool {
        matches!(self.text(), "true" | "1")
    }

    pub(super) fn lost(self, why: &str, sheet: &mut Sheet<'_>) {
        sheet.find(self.line(), Loss::Lost, format!("{}: {why}", self.name()));
    }

    pub(super) fn approximated(self, how: &str, sheet: &mut Sheet<'_>) {
        sheet.find(self.line(), Loss::Approximated, format!("{}: {how}", self.name()));
    }

    pub(super) fn unread(self, expected: &str, sheet: &mut Sheet<'_>) {
        let what = format!("{}: expected {expected}, found {:?}", self.name(), self.text());
        sheet.find(self.line(), Loss::Unread, what);
    }

    /// A span of XML Schema, `PT1H30M`.
    pub(super) fn span(self, sheet: &mut Sheet<'_>) -> Option<Duration> {
        let span = span(self.text());
        if span.is_none() {
            self.unread("a span such as PT1H30M", sheet);
        }
        span
    }
}

/// Reads a document and hands its root on; what is no XML is a finding.
pub(super) fn document(text: &str, sheet: &mut Sheet<'_>, read: impl FnOnce(Element<'_>, &mut Sheet<'_>)) {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return sheet.find(error.pos().row as usize, Loss::Unread, error.to_string()),
    };
    let lines: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    read(Element { node: document.root_element(), lines: &lines }, sheet);
}

/// A span of XML Schema in days, hours, minutes and seconds; months and years have no length.
pub(super) fn span(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('P')?;
    let (mut total, mut in_time, mut is_empty) = (0_u64, false, true);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, in_time) = (time, true);
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match (&rest[end..=end], in_time) {
            ("D", false) => 86_400,
            ("H", true) => 3_600,
            ("M", true) => 60,
            ("S", true) => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        is_empty = false;
        rest = &rest[end + 1..];
    }
    (!is_empty).then(|| Duration::from_secs(total))
}
