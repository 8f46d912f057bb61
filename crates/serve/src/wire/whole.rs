//! Whole numbers as JSON may spell them: 5.0 is 5, as vLLM takes it; 5.5 and "5" are refused.
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;

/// An integer type that a request's field may have.
pub trait Whole: TryFrom<i128> + Display {
    /// Least and most.
    const RANGE: [Self; 2];
}

macro_rules! whole {
    ($($integer:ty),*) => { $(impl Whole for $integer { const RANGE: [Self; 2] = [<$integer>::MIN, <$integer>::MAX]; })* };
}
whole!(u64, i64, u32, i32);

/// For `Option<u64>` and the like; null is none. Needs `#[serde(default)]` beside it.
pub fn optional<'de, T: Whole, D: Deserializer<'de>>(input: D) -> Result<Option<T>, D::Error> {
    input.deserialize_option(Optional(PhantomData))
}

/// For `Vec<u32>` and the like.
pub fn list<'de, T: Whole, D: Deserializer<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    input.deserialize_seq(List(PhantomData))
}

/// For `Option<Vec<u32>>`. Needs `#[serde(default)]` beside it.
pub fn optional_list<'de, T: Whole, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<T>>, D::Error> {
    let list: Option<Each<T>> = serde::Deserialize::deserialize(input)?;
    Ok(list.map(|list| list.0))
}

/// A list by itself.
pub struct Each<T>(pub Vec<T>);

impl<'de, T: Whole> serde::Deserialize<'de> for Each<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        list(input).map(Each)
    }
}

/// A number by itself.
pub struct One<T>(pub T);

impl<'de, T: Whole> serde::Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Single(PhantomData)).map(One)
    }
}

/// Reads a number.
pub struct Single<T>(pub PhantomData<T>);

impl<T: Whole> Visitor<'_> for Single<T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let [least, most] = T::RANGE;
        write!(f, "a whole number from {least} to {most}")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<T, E> {
        T::try_from(found.into()).map_err(|_| E::invalid_value(Unexpected::Unsigned(found), &self))
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<T, E> {
        T::try_from(found.into()).map_err(|_| E::invalid_value(Unexpected::Signed(found), &self))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<T, E> {
        // What is too large for the type stays so: the cast goes to the nearest that there is.
        let whole = (found.fract() == 0.0).then_some(found as i128);
        let fits = whole.and_then(|whole| T::try_from(whole).ok());
        fits.ok_or_else(|| E::invalid_value(Unexpected::Float(found), &self))
    }
}

struct Optional<T>(PhantomData<T>);

impl<'de, T: Whole> Visitor<'de> for Optional<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Single::<T>(PhantomData).expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        input.deserialize_any(Single(PhantomData)).map(Some)
    }
}

/// Reads a list.
pub struct List<T>(pub PhantomData<T>);

impl<'de, T: Whole> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(One(number)) = input.next_element()? {
            list.push(number);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, deserialize_with = "super::optional")]
        count: Option<u64>,
        #[serde(default, deserialize_with = "super::optional")]
        seed: Option<i64>,
        #[serde(default, deserialize_with = "super::optional_list")]
        ids: Option<Vec<u32>>,
        // What goes through serde's buffer, as untagged values do.
        #[serde(flatten)]
        rest: serde_json::Map<String, serde_json::Value>,
    }

    fn read(text: &str) -> Result<Fields, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_point_and_zeros_change_nothing() {
        let found = read(r#"{"count": 5.0, "seed": -7.0e0, "ids": [1, 2.0, 3e2], "x": 5.0}"#).unwrap();
        assert_eq!((found.count, found.seed, found.ids), (Some(5), Some(-7), Some(vec![1, 2, 300])));
        assert_eq!(found.rest["x"].to_string(), "5.0", "what is not ours stays as it is spelled");
        let none = read(r#"{"count": null, "ids": null}"#).unwrap();
        assert!(none.count.is_none() && none.seed.is_none() && none.ids.is_none());
        assert_eq!(read(r#"{"count": 18446744073709551615}"#).unwrap().count, Some(u64::MAX));
        assert_eq!(read(r#"{"seed": -9223372036854775808, "count": -0.0}"#).unwrap().seed, Some(i64::MIN));
    }

    #[test]
    fn other_numbers_and_what_is_none_are_refused() {
        for wrong in ["5.5", "-1", "-1.0", "1e300", "18446744073709551616", "\"5\"", "true", "[5]", "{}"] {
            let error = read(&format!("{{\"count\": {wrong}}}")).err().unwrap_or_else(|| panic!("{wrong}"));
            assert!(error.contains("a whole number from 0 to 18446744073709551615"), "{error}");
        }
        for wrong in ["[1.5]", "[4294967296]", "[-1]", "[null]", "5", "\"5\"", "[[1]]"] {
            assert!(read(&format!("{{\"ids\": {wrong}}}")).is_err(), "{wrong}");
        }
    }
}
