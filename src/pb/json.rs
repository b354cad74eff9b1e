//! Fields whose text is JSON: in a job file they may be written as what the JSON says.
//!
//! `args: [1, {day: monday}]` and `args: '[1, {"day": "monday"}]'` are the same. Written is the value; a text that is no
//! list or mapping is written, and read, as it is.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

/// Writes what the text says.
///
/// # Errors
/// Those of the serializer.
pub(crate) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => value.serialize(serializer),
        Ok(_) | Err(_) => serializer.serialize_str(text),
    }
}

/// Reads a text, or a value as its text; `null` is none.
///
/// # Errors
/// Those of the deserializer.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => String::new(),
        Value::String(text) => text,
        value => value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use crate::pb::v1::CeleryTarget;

    #[test]
    fn a_value_and_its_json_text_are_the_same_field() {
        let written = r#"{"args":[1,{"day":"monday"}],"kwargs":{"x":null}}"#;
        let as_text = r#"{"args": "[1, {\"day\": \"monday\"}]", "kwargs": "{\"x\": null}", "headers": null}"#;
        let read = |text: &str| serde_json::from_str::<CeleryTarget>(text).expect("a target");
        assert_eq!(serde_json::to_string(&read(written)).expect("text"), written);
        assert_eq!(serde_json::to_string(&read(as_text)).expect("text"), written);
    }

    #[test]
    fn what_is_no_list_or_mapping_is_written_as_it_was_read() {
        for written in [r#"{"args":"[1"}"#, r#"{"args":"7"}"#] {
            let read: CeleryTarget = serde_json::from_str(written).expect("a target");
            assert_eq!(serde_json::to_string(&read).expect("text"), written);
        }
    }
}
