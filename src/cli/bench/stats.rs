//! Percentiles and medians, by the plain definitions: a percentile is a value that was measured (nearest
//! rank), never one between two; the median over runs is the middle one, or the mean of the middle two.

/// Measured spans in milliseconds, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    sorted: Vec<i64>,
}

impl FromIterator<i64> for Sample {
    fn from_iter<I: IntoIterator<Item = i64>>(values: I) -> Self {
        let mut sorted: Vec<i64> = values.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl Sample {
    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest value that at least `thousandths` of all values do not exceed: 500 for the median,
    /// 990 for p99. `None` without values.
    pub(super) fn percentile(&self, thousandths: usize) -> Option<i64> {
        let rank = (self.sorted.len() * thousandths.min(1_000)).div_ceil(1_000);
        self.sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The largest value.
    pub(super) fn max(&self) -> Option<i64> {
        self.sorted.last().copied()
    }
}

/// The middle of the values, or the mean of the middle two; 0 without values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(sorted[middle - 1], *value),
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let sample: Sample = (1..=100).rev().collect();
        let at = |thousandths| sample.percentile(thousandths);
        assert_eq!((at(500), at(900), at(990), at(1_000)), (Some(50), Some(90), Some(99), Some(100)));
        assert_eq!((at(0), at(1), at(995)), (Some(1), Some(1), Some(100)));
        assert_eq!((sample.max(), sample.len()), (Some(100), 100));
    }

    #[test]
    fn the_p99_of_fifty_values_is_the_largest() {
        let sample: Sample = (1..=50).collect();
        assert_eq!(sample.percentile(990), Some(50));
        assert_eq!(sample.percentile(500), Some(25));
    }

    #[test]
    fn nothing_measured_has_no_percentile() {
        let sample = Sample::default();
        assert_eq!((sample.percentile(500), sample.max()), (None, None));
    }

    #[test]
    fn the_median_does_not_follow_an_outlier() {
        assert!((median(&[1_000.0, 2.0, 1.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 1_000.0, 2.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
