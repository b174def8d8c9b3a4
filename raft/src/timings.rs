//! How long commits and flushes take, for metrics and for choosing a timing profile.
//!
//! Fixed buckets, four to each doubling from 1 microsecond to about a minute: a quantile is right to 19 %, and
//! recording is one atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PER_DOUBLING: usize = 4;
const DOUBLINGS: usize = 26;
const BUCKETS: usize = PER_DOUBLING * DOUBLINGS;

/// What the log store and the cluster measure.
#[derive(Debug, Default)]
pub struct Timings {
    /// One flush of the log to stable storage.
    pub fsync: Histogram,
    /// From a proposal to its outcome.
    pub commit: Histogram,
}

/// Counts durations.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        self.buckets[bucket(duration)].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    /// The upper bound of each bucket and how many durations fell into it.
    pub fn counts(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(at, count)| (bound(at), count.load(Ordering::Relaxed)))
    }

    /// An upper bound of the `q` quantile (0 to 1); `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = (q.clamp(0.0, 1.0) * count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.counts().find_map(|(bound, count)| {
            seen += count;
            (seen >= rank && count > 0).then_some(bound)
        })
    }
}

fn bucket(duration: Duration) -> usize {
    let us = duration.as_nanos() as f64 / 1000.0;
    if us <= 1.0 {
        return 0;
    }
    ((us.log2() * PER_DOUBLING as f64).ceil() as usize).min(BUCKETS - 1)
}

fn bound(bucket: usize) -> Duration {
    Duration::from_nanos((1000.0 * (bucket as f64 / PER_DOUBLING as f64).exp2()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_one_bucket_too_high() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.sum(), Duration::from_millis(500_500));
        for (q, ms) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile(q).unwrap().as_secs_f64() * 1000.0;
            assert!(found >= ms * 0.999 && found <= ms * 1.2, "{q}: {found}");
        }
    }

    #[test]
    fn extremes_have_a_bucket() {
        let histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(10_000));
        assert_eq!(histogram.count(), 2);
    }
}
