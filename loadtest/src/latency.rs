//! Histograms: exact ones that each worker keeps for itself, and a coarse one that others may read
//! while it fills.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hdrhistogram::Histogram;

/// The longest time that is told apart, in nanoseconds: 10 minutes.
const LONGEST: u64 = 600_000_000_000;

/// A histogram of times from 1 µs to 10 min with three significant digits.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1_000, LONGEST, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are constants")),
        )
    }
}

impl Latency {
    /// Notes a time in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Takes in another histogram.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many times were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time in milliseconds that a share of all stay within, `percentile` of 100.
    pub fn percentile(&self, percentile: f64) -> f64 {
        self.0.value_at_quantile(percentile / 100.0) as f64 / 1e6
    }

    /// The longest, in milliseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1e6
    }

    /// The mean, in milliseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean() / 1e6
    }

    /// Percentile in 0..=100, milliseconds and the count up to there, ever finer towards 100: the
    /// points of a latency plot.
    pub fn points(&self) -> Vec<(f64, f64, u64)> {
        self.0
            .iter_quantiles(5)
            .map(|step| {
                (
                    step.quantile_iterated_to() * 100.0,
                    step.value_iterated_to() as f64 / 1e6,
                    self.0.count_between(0, step.value_iterated_to()),
                )
            })
            .collect()
    }

    /// The text format that HdrHistogram's plotters read, in milliseconds.
    pub fn percentile_distribution(&self) -> String {
        use std::fmt::Write;
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        for (percentile, value, count) in self.points() {
            let quantile = percentile / 100.0;
            let inverse = match quantile < 1.0 {
                true => format!("{:14.2}", 1.0 / (1.0 - quantile)),
                false => String::new(),
            };
            let _ = writeln!(text, "{value:12.3} {quantile:14.12} {count:10} {inverse}");
        }
        let _ = writeln!(
            text,
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n#[Buckets = {:12}, SubBuckets     = {:12}]",
            self.mean(),
            self.0.stdev() / 1e6,
            self.max(),
            self.count(),
            self.0.buckets(),
            2048,
        );
        text
    }
}

/// Buckets of [`Live`]: eight for each power of two.
const BUCKETS: usize = 64 * 8;

/// A coarse histogram with one writer and any readers.
pub struct Live(Box<[AtomicU32]>);

impl Default for Live {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Live {
    /// Notes a time in nanoseconds.
    pub fn record(&self, nanoseconds: u64) {
        if let Some(count) = self.0.get(bucket(nanoseconds)) {
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Adds the counts to `sums`.
    pub fn add_to(&self, sums: &mut Vec<u32>) {
        sums.resize(BUCKETS, 0);
        for (sum, count) in sums.iter_mut().zip(&self.0) {
            *sum = sum.wrapping_add(count.load(Relaxed));
        }
    }
}

/// The time in milliseconds that `share` of the counts between two readings stay within; `None` if
/// there are none.
pub fn live_quantile(before: &[u32], after: &[u32], share: f64) -> Option<f64> {
    let count = |at: usize, value: u32| {
        u64::from(value.wrapping_sub(before.get(at).copied().unwrap_or_default()))
    };
    let total: u64 = after.iter().enumerate().map(|(at, value)| count(at, *value)).sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut sum = 0;
    for (at, value) in after.iter().enumerate() {
        sum += count(at, *value);
        if sum >= wanted {
            return Some(upper_bound(at) as f64 / 1e6);
        }
    }
    None
}

fn bucket(value: u64) -> usize {
    if value < 8 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    ((exponent - 2) * 8) as usize + (value >> (exponent - 3) & 7) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let exponent = (bucket / 8 + 2) as u32;
    let base = (8 + bucket as u64 % 8) << (exponent - 3);
    base + (1 << (exponent - 3)) - 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..10_000).chain([1 << 20, (1 << 40) + 12_345]) {
            let upper = upper_bound(bucket(value));
            assert!(upper >= value && upper <= value + value / 8, "{value} {upper}");
        }
    }

    #[test]
    fn quantiles_are_of_what_came_in_between() {
        let live = Live::default();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        live.record(1_000_000_000);
        live.add_to(&mut before);
        for _ in 0..99 {
            live.record(1_000_000);
        }
        live.record(50_000_000);
        live.add_to(&mut after);
        let p50 = live_quantile(&before, &after, 0.5).unwrap();
        let max = live_quantile(&before, &after, 1.0).unwrap();
        assert!((1.0..1.13).contains(&p50) && (50.0..56.0).contains(&max), "{p50} {max}");
        assert_eq!(live_quantile(&after, &after, 0.5), None);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latency = Latency::default();
        for millisecond in 1..=1_000u64 {
            latency.record(millisecond * 1_000_000);
        }
        for (percentile, expected) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (99.9, 999.0)] {
            let value = latency.percentile(percentile);
            assert!((value - expected).abs() < expected / 500.0, "p{percentile}: {value}");
        }
        assert!((latency.max() - 1_000.0).abs() < 2.0);
        let text = latency.percentile_distribution();
        assert!(
            text.contains("Percentile TotalCount")
                && text.contains("Total count    =         1000")
        );
    }
}
