//! Mean and percentiles of measured times.
use serde_json::{Value, json};

/// Measured values, rising.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution(Vec<f64>);

impl FromIterator<f64> for Distribution {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Distribution {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Distribution(values)
    }
}

impl Distribution {
    /// The values, rising.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// Their standard deviation, as of a whole population; 0 of none.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.0.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / self.0.len().max(1) as f64).sqrt()
    }

    /// The value that a share `q` of them does not exceed, between two neighbours in proportion; 0 of none.
    pub fn at(&self, q: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return 0.0 };
        let place = last as f64 * q;
        let (low, part) = (place as usize, place.fract());
        let high = self.0[(low + 1).min(last)];
        self.0[low] + (high - self.0[low]) * part
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The smallest; 0 of none.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    /// The largest; 0 of none.
    pub fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// Mean and percentiles under their usual names.
    pub fn json(&self) -> Value {
        json!({"mean": self.mean(), "p50": self.at(0.5), "p90": self.at(0.9), "p99": self.at(0.99)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let d: Distribution = (0..=100).rev().map(f64::from).collect();
        assert_eq!(
            (d.mean(), d.median(), d.at(0.9), d.at(0.99), d.least(), d.most()),
            (50.0, 50.0, 90.0, 99.0, 0.0, 100.0)
        );
        let d: Distribution = [1.0, 2.0].into_iter().collect();
        assert_eq!((d.median(), d.at(1.0), d.at(0.0), d.deviation()), (1.5, 2.0, 1.0, 0.5));
        let none = Distribution::default();
        assert_eq!((none.mean(), none.median(), none.least()), (0.0, 0.0, 0.0));
        assert_eq!([3.0].into_iter().collect::<Distribution>().at(0.99), 3.0);
    }
}
