//! JSON objects as Go's `encoding/json` reads them, which is how every other reader of these values does it: field
//! names match in any case, unknown fields are passed over, of a field given twice the last counts, and `null` for
//! the whole object is an object without fields.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Deserialize, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON object, its values still as text.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads the object; the error is a sentence part like "not JSON: expected value at line 1 column 1".
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        reader
            .deserialize_any(Fields)
            .and_then(|object| reader.end().map(|()| object))
            .map_err(|e| if e.is_data() { format!("no JSON object: {e}") } else { format!("not JSON: {e}") })
    }

    /// The value of a field as JSON text, `null` included.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.get())
    }

    /// The value of a field, nothing for an absent one or `null`; the error says what was found instead.
    pub(crate) fn get<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<Option<T>, String> {
        let Some(text) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(text).map_err(|_| format!("{name} is {text}, which is not {expected}"))
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Object(fields))
    }

    fn visit_unit<E>(self) -> Result<Object<'de>, E> {
        Ok(Object::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_go_does() {
        let object = Object::parse(r#" {"a":1,"B":null,"A":2,"c":{"d":[1]}} "#).unwrap();
        assert_eq!(object.get("A", "a number"), Ok(Some(2)));
        assert_eq!(object.get::<u32>("b", "a number"), Ok(None));
        assert_eq!(object.raw("C"), Some(r#"{"d":[1]}"#));
        assert_eq!(object.get::<u32>("c", "a number"), Err(r#"c is {"d":[1]}, which is not a number"#.into()));
        assert!(Object::parse("null").unwrap().raw("a").is_none());
    }

    #[test]
    fn says_what_is_no_object() {
        assert!(Object::parse("[]").unwrap_err().starts_with("no JSON object: "));
        assert!(Object::parse("not json").unwrap_err().starts_with("not JSON: "));
        assert!(Object::parse("{} {}").unwrap_err().starts_with("not JSON: "));
        assert!(Object::parse("").unwrap_err().starts_with("not JSON: "));
    }
}
