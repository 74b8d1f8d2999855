//! From the merged tree to the typed configuration.
//!
//! Owns a serde deserializer over the tree. The types are the schema: a struct names its fields when it
//! is deserialized, and every key that is not among them is reported with its full path and with the
//! place where it was written. A value of a wrong type is reported in the same way.

use std::cell::RefCell;
use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::layers::{Entry, Origin, Value, list_from_text};
use super::problem::{Problem, unknown_key};

/// Lists the full path of every key. It is asked only about a key that does not exist, because it writes a whole
/// configuration out.
type KnownKeys = fn() -> Vec<String>;

/// Reads `root` as a `T`. `known` gives the full path of every key, for suggestions. Unknown keys go to
/// `problems` and do not keep the rest from being read.
pub(super) fn read<T: de::DeserializeOwned>(
    root: &Value,
    known: KnownKeys,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let unknown = RefCell::new(Vec::new());
    let result =
        T::deserialize(Reader { value: root, origin: None, path: String::new(), known, unknown: &unknown });
    problems.extend(unknown.into_inner());
    match result {
        Ok(value) => Some(value),
        Err(fault) => {
            problems.push(fault.0);
            None
        }
    }
}

/// Reads one value.
struct Reader<'t> {
    value: &'t Value,
    /// Where the value was written; `None` for the whole.
    origin: Option<&'t Origin>,
    /// The key's full path; empty for the whole.
    path: String,
    known: KnownKeys,
    unknown: &'t RefCell<Vec<Problem>>,
}

impl<'t> Reader<'t> {
    /// A reader for a value inside this one.
    fn inside<'e>(&self, entry: &'e Entry, path: String) -> Reader<'e>
    where
        't: 'e,
    {
        let Self { known, unknown, .. } = *self;
        Reader { value: &entry.value, origin: Some(&entry.origin), path, known, unknown }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Gives a fault this value's place, unless a value inside has given it one.
    fn place<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|Fault(mut problem)| {
            if problem.key.is_none() {
                problem.key = Some(self.path.clone());
                problem.origin = self.origin.cloned();
            }
            Fault(problem)
        })
    }

    fn wrong_type<T>(&self, expected: &str) -> Result<T, Fault> {
        self.place(Err(de::Error::custom(format_args!(
            "expected {expected}, found {}",
            self.value.describe()
        ))))
    }

    fn visit_list<'de, V: Visitor<'de>>(&self, entries: &[Entry], visitor: V) -> Result<V::Value, Fault> {
        self.place(visitor.visit_seq(Elements { list: self, entries: entries.iter().enumerate() }))
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value {
            Value::String(text) | Value::Text(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Datetime => Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::Array(_) => Err(de::Error::invalid_type(Unexpected::Other("a list"), &visitor)),
            Value::Table(_) => Err(de::Error::invalid_type(Unexpected::Other("a table"), &visitor)),
        };
        self.place(result)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Text(text) if text == "true" => visitor.visit_bool(true),
            Value::Text(text) if text == "false" => visitor.visit_bool(false),
            _ => self.wrong_type("true or false"),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let number = match self.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => self.place(visitor.visit_u64(number)),
            None => self.wrong_type("a whole number"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // TOML has no null: a key that is there has a value.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let table = match self.value {
            Value::Table(table) => table,
            Value::Text(_) => return self.wrong_type("a table, whose keys are set one at a time"),
            _ => return self.wrong_type("a table"),
        };
        for (key, entry) in table.iter().filter(|(key, _)| !fields.contains(&key.as_str())) {
            let path = self.path_of(key);
            let text = unknown_key(&path, fields, &(self.known)(), &entry.key_origin);
            let origin = Some(entry.key_origin.clone());
            self.unknown.borrow_mut().push(Problem { origin, key: Some(path), text });
        }
        let entries = table.iter().filter(|(key, _)| fields.contains(&key.as_str()));
        self.place(visitor.visit_map(Keys { table: &self, entries, current: None }))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match (self.value, self.origin) {
            (Value::Array(entries), _) => self.visit_list(entries, visitor),
            (Value::Text(text), Some(origin)) => {
                let entries = list_from_text(text, origin).map_err(de::Error::custom);
                let entries = self.place(entries)?;
                self.visit_list(&entries, visitor)
            }
            _ => self.wrong_type("a list"),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::String(text) | Value::Text(text) => {
                let text: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                self.place(visitor.visit_enum(text))
            }
            _ => self.wrong_type(&format!("one of {}", variants.join(", "))),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

/// The keys of a table that its type knows.
struct Keys<'r, 't, I> {
    table: &'r Reader<'t>,
    entries: I,
    current: Option<(&'t str, &'t Entry)>,
}

impl<'de, 't, I: Iterator<Item = (&'t String, &'t Entry)>> de::MapAccess<'de> for Keys<'_, 't, I> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.entries.next().map(|(key, entry)| (key.as_str(), entry));
        let Some((key, _)) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Fault> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, entry)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(self.table.inside(entry, self.table.path_of(key)))
    }
}

/// The elements of a list; their paths carry the index, as in `auth.users[0]`.
struct Elements<'r, 't, 'e> {
    list: &'r Reader<'t>,
    entries: std::iter::Enumerate<std::slice::Iter<'e, Entry>>,
}

impl<'de, 't: 'e, 'e> de::SeqAccess<'de> for Elements<'_, 't, 'e> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, entry)) = self.entries.next() else { return Ok(None) };
        let path = format!("{}[{index}]", self.list.path);
        seed.deserialize(self.list.inside(entry, path)).map(Some)
    }
}

/// What serde's own code and the types' visitors report.
#[derive(Debug)]
struct Fault(Problem);

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(text: T) -> Self {
        Self(Problem { origin: None, key: None, text: text.to_string() })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn unknown_variant(found: &str, variants: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected one of {}; found {found:?}", variants.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key `{field}` is missing"))
    }
}
