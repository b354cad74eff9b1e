//! Values as Python writes them, for people who read them in logs and in Flower.

use serde_json::Value;

/// Bytes of a written value, at most, as Celery has it.
const BYTES_MAX: usize = 1_024;
/// How deep values are written, as Celery has it.
const DEPTH_MAX: usize = 3;

/// The value, cut where it is long or deep.
pub(super) fn repr(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    if text.len() > BYTES_MAX {
        text.truncate(text.floor_char_boundary(BYTES_MAX - 3));
        text.push_str("...");
    }
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    if text.len() > BYTES_MAX {
        return;
    }
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => write_text(string, text),
        Value::Array(values) => {
            text.push('[');
            if depth < DEPTH_MAX {
                for (place, value) in values.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { ", " });
                    write(value, depth + 1, text);
                }
            } else if !values.is_empty() {
                text.push_str("...");
            }
            text.push(']');
        }
        Value::Object(values) => {
            text.push('{');
            if depth < DEPTH_MAX {
                for (place, (key, value)) in values.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { ", " });
                    write_text(key, text);
                    text.push_str(": ");
                    write(value, depth + 1, text);
                }
            } else if !values.is_empty() {
                text.push_str("...");
            }
            text.push('}');
        }
    }
}

fn write_text(string: &str, text: &mut String) {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for character in string.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
        if text.len() > BYTES_MAX {
            return;
        }
    }
    text.push(quote);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        let value = json!([1, "zażółć", null, 2.5, true, "it's", "a\"'\n\u{7}", { "k": [] }]);
        assert_eq!(repr(&value), r#"[1, 'zażółć', None, 2.5, True, "it's", 'a"\'\n\x07', {'k': []}]"#);
    }

    #[test]
    fn what_is_long_or_deep_is_cut() {
        assert_eq!(repr(&json!([[[[[1]]]]])), "[[[[...]]]]");
        let long = repr(&json!(["é".repeat(5_000)]));
        assert!(long.len() <= BYTES_MAX && long.ends_with("..."), "{}", long.len());
    }
}
