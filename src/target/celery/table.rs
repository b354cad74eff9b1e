//! Headers in the types of AMQP, as py-amqp writes and reads them.

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Value};

/// A mapping as a table.
pub(super) fn table(of: &Map<String, Value>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, it) in of {
        let short = ShortString::try_new(name.as_str());
        let short =
            short.map_err(|_| format!("{} bytes of a name are more than AMQP can write", name.len()))?;
        table.insert(short, value(it).map_err(|why| format!("{name}: {why}"))?);
    }
    Ok(table)
}

fn value(of: &Value) -> Result<AMQPValue, String> {
    Ok(match of {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let values: Result<Vec<AMQPValue>, String> = values.iter().map(value).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        Value::Object(values) => AMQPValue::FieldTable(table(values)?),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => {
                i32::try_from(whole).map_or(AMQPValue::LongLongInt(whole), AMQPValue::LongInt)
            }
            (None, Some(part)) if number.is_f64() => AMQPValue::Double(part),
            (None, _) => return Err(format!("{number} is more than AMQP can write; write it as a text")),
        },
    })
}

/// A table as the mapping that a worker makes of it; what it has no JSON for is absent.
pub(super) fn mapping(of: &FieldTable) -> Map<String, Value> {
    of.inner().iter().filter_map(|(name, it)| Some((name.to_string(), json(it)?))).collect()
}

fn json(of: &AMQPValue) -> Option<Value> {
    Some(match of {
        AMQPValue::Void => Value::Null,
        AMQPValue::Boolean(flag) => (*flag).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Double(number) => (*number).into(),
        AMQPValue::LongString(text) => Value::String(String::from_utf8(text.as_bytes().to_vec()).ok()?),
        AMQPValue::FieldArray(values) => {
            Value::Array(values.as_slice().iter().map(json).collect::<Option<_>>()?)
        }
        AMQPValue::FieldTable(values) => Value::Object(mapping(values)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_have_the_types_that_py_amqp_gives_them() {
        let Value::Object(headers) = json!({
            "none": null, "flag": true, "text": "é", "small": -2_147_483_648_i64, "large": 2_147_483_648_i64,
            "part": 0.5, "list": [1, "a"], "table": {"deep": null}
        }) else {
            unreachable!()
        };
        let table = table(&headers).expect("a table");
        let of = |name: &str| table.inner().get(name).expect(name).get_type().get_id();
        let types = ["none", "flag", "text", "small", "large", "part", "list", "table"].map(of);
        assert_eq!(String::from_iter(types), "VtSIldAF");
        assert_eq!(mapping(&table), headers);
    }

    #[test]
    fn what_amqp_cannot_write_is_told_by_name() {
        let Value::Object(headers) = json!({ "n": { "m": u64::MAX } }) else { unreachable!() };
        assert_eq!(
            table(&headers),
            Err("n: m: 18446744073709551615 is more than AMQP can write; write it as a text".to_owned())
        );
        let Value::Object(headers) = json!({ "x".repeat(256): 1 }) else { unreachable!() };
        assert!(table(&headers).is_err());
    }
}
