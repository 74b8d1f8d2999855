//! A share of a whole, as a configuration value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A share of a whole, from 0 to 1, to a millionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    millionths: u32,
}

/// What stands for the whole.
const WHOLE: u32 = 1_000_000;

impl Share {
    /// Whether one out of all numbers of 64 bits, each as likely as the others, is in the share.
    #[inline]
    pub(crate) fn hits(self, random: u64) -> bool {
        // The upper half of the product is below the whole, and evenly so.
        let scaled = (u128::from(random) * u128::from(WHOLE)) >> 64;
        scaled < u128::from(self.millionths)
    }

    fn new(value: f64) -> Option<Self> {
        // In range, so that nothing is cut off.
        (0.0..=1.0).contains(&value).then(|| Self { millionths: (value * f64::from(WHOLE)).round() as u32 })
    }
}

/// The text is no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0 to 1; found {0:?}")]
pub struct ShareError(String);

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| ShareError(text.to_owned()))
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.millionths) / f64::from(WHOLE))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Share, E> {
                let found = || format!("the number {value}");
                Share::new(value).ok_or_else(|| E::invalid_value(de::Unexpected::Other(&found()), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Share, E> {
                // Only 0 and 1 are in range, and those are exact.
                self.visit_f64(value as f64)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Share, E> {
                text.parse().map_err(E::custom)
            }
        }
        // Variables of the environment are texts.
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        let share = |text: &str| text.parse::<Share>().map(|share| share.millionths);
        assert_eq!(share("0"), Ok(0));
        assert_eq!(share("0.01"), Ok(10_000));
        assert_eq!(share("1"), Ok(1_000_000));
        for text in ["", "a", "-0.1", "1.1", "NaN", "inf", "1%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_hits_as_often_as_it_says() {
        let (none, all, tenth) =
            (Share::default(), "1".parse::<Share>().unwrap(), "0.1".parse::<Share>().unwrap());
        assert!(!none.hits(0) && !none.hits(u64::MAX));
        assert!(all.hits(0) && all.hits(u64::MAX));
        // The middles of a thousand equal parts, so that neither chance nor rounding has a say.
        let part = u64::MAX / 1_000;
        let hits = (0..1_000).filter(|number| tenth.hits(number * part + part / 2)).count();
        assert_eq!(hits, 100);
    }
}
