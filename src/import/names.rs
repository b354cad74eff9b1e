//! Names for jobs whose source gives them none.

use std::collections::{BTreeMap, BTreeSet};

/// The longest name.
const CHARS_MAX: usize = crate::api::limits::NAME_CHARS;
/// What a job is called of which nothing else can be said.
const NAMELESS: &str = "job";

/// A text as a name: lower case, with `-` for all that a name cannot hold.
pub(super) fn of_text(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' | '.' | '_' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() == CHARS_MAX {
            break;
        }
    }
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { NAMELESS.to_owned() } else { name.to_owned() }
}

/// What a shell command is called: the first program or script of it that says something.
pub(super) fn of_command(command: &str) -> String {
    // `cd /srv/shop && …`, `test -x /usr/sbin/anacron || …`: what comes last is what it is about.
    let parts = command.split("&&").flat_map(|part| part.split("||")).flat_map(|part| part.split(';'));
    let is_work = |part: &&str| {
        let first = part.split_whitespace().next().unwrap_or_default();
        !matches!(
            first,
            "" | "cd" | "test" | "[" | "." | "source" | "export" | "set" | "umask" | "exit" | "command"
        )
    };
    // What is written inside of it is no program.
    let is_inline = |part: &&str| {
        let mut words = part.split_whitespace();
        let program = words.next().map_or("", base);
        matches!(program, "perl" | "python" | "python3" | "ruby" | "php" | "node")
            && words.next().is_some_and(|word| matches!(word, "-e" | "-c" | "-r"))
    };
    let says_something = |part: &&str| is_work(part) && !is_inline(part);
    let part =
        parts.map(|part| part.trim().trim_start_matches(['(', '{'])).find(says_something).unwrap_or(command);
    let program = part.split_whitespace().find(|word| {
        let base = base(word);
        let is_wrapper = matches!(
            base,
            "sudo"
                | "nice"
                | "ionice"
                | "chronic"
                | "env"
                | "timeout"
                | "flock"
                | "setlock"
                | "time"
                | "nohup"
                | "sh"
                | "bash"
                | "dash"
                | "zsh"
                | "ksh"
                | "python"
                | "python3"
                | "perl"
                | "ruby"
                | "php"
                | "node"
                | "java"
        );
        let says_nothing = !base.starts_with(|c: char| c.is_ascii_alphabetic());
        !is_wrapper && !says_nothing && !word.starts_with('-') && !word.contains('=')
    });
    let base = program.map_or(NAMELESS, base);
    let stem = match base.rsplit_once('.') {
        Some((stem, "sh" | "bash" | "py" | "pl" | "rb" | "php" | "js" | "jar")) => stem,
        Some(_) | None => base,
    };
    of_text(stem)
}

fn base(word: &str) -> &str {
    let word = word.trim_matches(['"', '\'', '`', '(', ')']);
    word.rsplit('/').next().unwrap_or(word)
}

/// Names that are given out.
#[derive(Default)]
pub(super) struct Names {
    taken: BTreeSet<(String, String)>,
    /// The number that a name was last given, so that thousands of the same are not counted anew for each.
    numbers: BTreeMap<(String, String), u32>,
}

impl Names {
    /// The name, or with the next number behind it that makes it a free one; it is taken then.
    pub(super) fn take(&mut self, namespace: &str, name: &str) -> String {
        let key = |name: &str| (namespace.to_owned(), name.to_owned());
        if self.taken.insert(key(name)) {
            return name.to_owned();
        }
        let number = self.numbers.entry(key(name)).or_insert(1);
        loop {
            *number += 1;
            let end = format!("-{number}");
            let begin: String = name.chars().take(CHARS_MAX - end.len()).collect();
            let numbered = begin + &end;
            if self.taken.insert(key(&numbered)) {
                return numbered;
            }
        }
    }
}
