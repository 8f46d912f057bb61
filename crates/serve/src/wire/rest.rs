//! What a request holds besides the fields that are known. A name is kept, and of its value no more than tells whether it
//! asks for anything: whatever is sent there, it costs no memory.
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess};
use serde::de::{SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt::{Formatter, Result as Written};

/// Fields that are not known, by name.
pub type Rest = Map<String, Value>;

/// Most fields that are not known, entries of a value, and characters of a name or text that are kept.
const MOST: usize = 256;
const ENTRIES: usize = 8;
const CHARACTERS: usize = 100;

/// A request's body.
pub trait Asked: DeserializeOwned + Send + 'static {
    /// Where its unknown fields are kept.
    fn rest_mut(&mut self) -> &mut Rest;
}

/// Reads a request with its unknown fields. Serde's `flatten` would buffer these, at many times their length.
pub fn read<'de, T: Asked, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    let mut rest = Rest::new();
    let mut request = T::deserialize(Whole { input, rest: &mut rest })?;
    *request.rest_mut() = rest;
    Ok(request)
}

/// A deserializer that knows which fields a request asks it for.
struct Whole<'a, D> {
    input: D,
    rest: &'a mut Rest,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Whole<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.input.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.input.deserialize_map(Fields { visitor, known, rest: self.rest })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Fields<'a, V> {
    visitor: V,
    known: &'static [&'static str],
    rest: &'a mut Rest,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Known { map, known: self.known, rest: self.rest })
    }
}

/// The known fields alone; the others are put aside.
struct Known<'a, A> {
    map: A,
    known: &'static [&'static str],
    rest: &'a mut Rest,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Known<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key_seed(Name(self.known))? {
            match name {
                Ok(known) => return seed.deserialize(known.into_deserializer()).map(Some),
                Err(_) if self.rest.len() >= MOST => {
                    return Err(A::Error::custom(format!("expected at most {MOST} fields that are not known here")));
                }
                Err(name) => drop(self.rest.insert(name, self.map.next_value_seed(Sketch { entries: ENTRIES })?)),
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// One of these names, or another, cut.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Result<&'static str, String>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Result<&'static str, String>;

    fn expecting(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, found: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|known| *known == found).ok_or_else(|| cut(found)))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(CHARACTERS).collect()
}

/// A value as far as it matters: single values, and so many of a list's or an object's. What is left out is `true`.
#[derive(Clone, Copy)]
struct Sketch {
    entries: usize,
}

impl<'de> DeserializeSeed<'de> for Sketch {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sketch {
    type Value = Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, found: bool) -> Result<Value, E> {
        Ok(found.into())
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Value, E> {
        Ok(found.into())
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Value, E> {
        Ok(found.into())
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<Value, E> {
        Ok(found.into())
    }

    fn visit_str<E: Error>(self, found: &str) -> Result<Value, E> {
        Ok(cut(found).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < self.entries
            && let Some(value) = input.next_element_seed(Sketch { entries: 0 })?
        {
            list.push(value);
        }
        if input.next_element::<IgnoredAny>()?.is_some() {
            list.push(true.into());
            while input.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = input.next_key_seed(Name(&[]))? {
            match map.len() < self.entries {
                true => drop(map.insert(
                    name.map_or_else(|other| other, str::to_owned),
                    input.next_value_seed(Sketch { entries: 0 })?,
                )),
                false => {
                    input.next_value::<IgnoredAny>()?;
                    map.insert("…".into(), true.into());
                }
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Default, serde::Deserialize)]
    struct Ask {
        #[serde(default)]
        known: Option<Vec<u32>>,
        #[serde(skip)]
        rest: Rest,
    }

    impl Asked for Ask {
        fn rest_mut(&mut self) -> &mut Rest {
            &mut self.rest
        }
    }

    fn ask(text: &str) -> Result<Ask, String> {
        read(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn known_fields_are_read_and_others_sketched() {
        let found =
            ask(r#"{"a": null, "b": [1, "x", []], "known": [1, 2], "c": {"d": null, "e": {"f": 1}}, "g": 1.5}"#);
        let found = found.unwrap();
        assert_eq!(found.known, Some(vec![1, 2]));
        let expected = json!({"a": null, "b": [1, "x", []], "c": {"d": null, "e": {"…": true}}, "g": 1.5});
        assert_eq!(Value::Object(found.rest), expected);
        for wrong in ["[]", "1", "{\"known\": 1}", "{\"a\": [}", "{\"known\": [], \"known\": []}"] {
            assert!(ask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_kept_of_a_value_does_not_grow_with_it() {
        let sizes = [100, 100_000].map(|n| {
            let (list, text) = ("[1],".repeat(n), "é".repeat(n));
            let map: String = (0..n).map(|i| format!("\"{i}\":{{}},")).collect();
            let deep = "[".repeat(n) + &"]".repeat(n);
            let body = format!("{{\"a\":[{list}0],\"b\":{{{map}\"x\":0}},\"c\":\"{text}\",\"{text}\":{deep}}}");
            let rest = ask(&body).unwrap().rest;
            assert!(rest["a"].as_array().unwrap().last().unwrap() == true && rest["b"]["…"] == true);
            Value::Object(rest).to_string().len()
        });
        assert_eq!(sizes[0], sizes[1]);
        let many = |n: usize| (0..n).map(|i| format!("\"x{i}\":1,")).collect::<String>();
        assert_eq!(ask(&format!("{{{}\"known\":[]}}", many(MOST))).unwrap().rest.len(), MOST);
        assert!(ask(&format!("{{{}\"known\":[]}}", many(MOST + 1))).unwrap_err().contains("at most 256 fields"));
    }
}
