//! Where kombu puts a message in Redis: which queues an exchange has for a routing key, and in which list of a queue.

use crate::config::connections::CeleryOptions;

/// The list of a queue for a priority. Every step has one; the first has the queue's own name.
pub(super) fn list(queue: &str, priority: u8, options: &CeleryOptions) -> String {
    let priority = priority.min(9);
    let step = options.priority_steps.iter().rev().find(|step| **step <= priority).copied().unwrap_or(0);
    let prefix = &options.global_keyprefix;
    match step {
        0 => format!("{prefix}{queue}"),
        step => format!("{prefix}{queue}{}{step}", options.sep),
    }
}

/// The queues whose bindings match, each once. A binding is `ROUTING_KEY sep PATTERN sep QUEUE`; one of a direct
/// exchange has no pattern.
pub(super) fn queues(bindings: &[String], routing_key: &str, sep: &str) -> Vec<String> {
    let mut queues: Vec<String> = bindings
        .iter()
        .filter_map(|binding| {
            let (bound, rest) = binding.split_once(sep)?;
            let (pattern, queue) = rest.split_once(sep)?;
            let matches =
                if pattern.is_empty() { bound == routing_key } else { is_topic(bound, routing_key) };
            matches.then(|| queue.to_owned())
        })
        .collect();
    queues.sort();
    queues.dedup();
    queues
}

/// Whether a routing key is one of a topic. kombu makes the regular expression `^a\..*?[^\.]\..*?$` of `a.*.#`, and so
/// `*` also stands for several words, and `#` for none only where nothing but the end is behind the dot before it.
fn is_topic(topic: &str, key: &str) -> bool {
    // For each word of the topic, where the key may go on behind it. Keys are short: 255 bytes.
    let mut open = vec![0];
    for (place, word) in topic.split('.').enumerate() {
        let mut next = Vec::new();
        for at in open {
            let begins = match place {
                0 => at,
                _ if key[at..].starts_with('.') => at + 1,
                _ => continue,
            };
            let ends = (begins..=key.len()).filter(|end| key.is_char_boundary(*end));
            match word {
                "#" => next.extend(ends),
                "*" => next.extend(ends.filter(|end| *end > begins && !key[..*end].ends_with('.'))),
                word if key[begins..].starts_with(word) => next.push(begins + word.len()),
                _ => {}
            }
        }
        next.sort_unstable();
        next.dedup();
        open = next;
    }
    open.contains(&key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_goes_to_the_highest_step_below_it() {
        let mut options = CeleryOptions::default();
        let lists: Vec<String> = [0, 2, 3, 5, 6, 9, 255].map(|it| list("q", it, &options)).into();
        let at = |step: &str| format!("q\u{6}\u{16}{step}");
        assert_eq!(lists, ["q".into(), "q".into(), at("3"), at("3"), at("6"), at("9"), at("9")]);
        options.priority_steps = (0..10).collect();
        options.sep = ":".to_owned();
        options.global_keyprefix = "app:".to_owned();
        assert_eq!(list("q", 7, &options), "app:q:7");
    }

    #[test]
    fn a_direct_exchange_takes_the_very_key_and_a_topic_what_matches() {
        let sep = "\u{6}\u{16}";
        let bindings: Vec<String> = [
            ("resize", "", "img"),
            ("media.feed.#", r"^media\.feed\..*?$", "feeds"),
            ("media.*", r"^media\..*?[^\.]$", "all"),
            ("media.feed.import", "", "import"),
        ]
        .map(|(key, pattern, queue)| [key, pattern, queue].join(sep))
        .into();
        let found = |key: &str| queues(&bindings, key, sep).join(" ");
        assert_eq!(found("resize"), "img");
        assert_eq!(found("media.feed.import"), "all feeds import");
        assert_eq!(found("media.feed."), "feeds");
        assert_eq!(found("media.feed"), "all");
        assert_eq!(found("media"), "");
        assert_eq!(found("Resize"), "");
    }

    #[test]
    fn a_binding_of_another_form_matches_nothing() {
        assert_eq!(queues(&["resize".to_owned(), String::new()], "resize", "\u{6}\u{16}"), [""; 0]);
    }
}
