//! Two contenders, measured in turn: A B, B A, A B, ... and the median of the ratios.
//!
//! A machine that other guests share drifts within minutes. Neighbours in time share the drift, so each pair gives one
//! ratio, and the order alternates so that neither is always the second. How sure the median is comes from a bootstrap
//! over the pairs, seeded, so that the same figures give the same interval.

use crypto::rng::{Rng, SeededRng};
use serde::Serialize;

use super::Figures;
use crate::outcome::{Result, Stop};

/// Pairs in which the hypervisor took more than this share away do not count.
const STEAL_MAX: f64 = 0.01;

const RESAMPLES: usize = 2_000;

/// A against B: below one, A costs less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    pub median: f64,
    /// The interval that holds the median with 95 %.
    pub low: f64,
    pub high: f64,
    /// Pairs that counted, and pairs that did not since the machine was disturbed.
    pub pairs: usize,
    pub disturbed: usize,
}

/// Measures `pairs` pairs (seven or more make sense) and compares `value`, such as `Figures::cpu_s_per_gb`.
pub fn compare(
    pairs: usize,
    mut a: impl FnMut() -> Result<Figures>,
    mut b: impl FnMut() -> Result<Figures>,
    value: impl Fn(&Figures) -> f64,
) -> Result<Ratio> {
    let (mut ratios, mut disturbed) = (Vec::new(), 0);
    for round in 0..pairs {
        let (of_a, of_b) = if round % 2 == 0 {
            let of_a = a()?;
            (of_a, b()?)
        } else {
            let of_b = b()?;
            (a()?, of_b)
        };
        let ratio = value(&of_a) / value(&of_b);
        if of_a.steal_share.max(of_b.steal_share) > STEAL_MAX || !ratio.is_finite() {
            disturbed += 1;
        } else {
            ratios.push(ratio);
        }
    }
    let median = median(&mut ratios)
        .ok_or_else(|| Stop::Failed(format!("all {pairs} pairs were disturbed: the machine is too busy")))?;
    let (low, high) = interval(&ratios);
    Ok(Ratio { median, low, high, pairs: ratios.len(), disturbed })
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The 2.5 and 97.5 % quantiles of the medians of as many values drawn with replacement.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut rng = SeededRng::new(1);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut drawn: Vec<f64> =
                values.iter().map(|_| values[rng.u32() as usize % values.len()]).collect();
            median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn figures(process_cpu_s: f64, steal_share: f64) -> Figures {
        Figures {
            wall_s: 1.0,
            bytes: 1_000_000_000,
            process_cpu_s,
            threads_cpu_s: process_cpu_s,
            machine_cpu_s: process_cpu_s,
            steal_share,
        }
    }

    #[test]
    fn drift_that_both_share_does_not_count() {
        let (drift, order) = (RefCell::new(1.0), RefCell::new(String::new()));
        let run = |name: char, cost: f64| {
            let mut drift = drift.borrow_mut();
            *drift *= 1.03;
            order.borrow_mut().push(name);
            Ok(figures(cost * *drift, 0.0))
        };
        let ratio = compare(8, || run('a', 1.0), || run('b', 2.0), Figures::cpu_s_per_gb).unwrap();
        assert_eq!(*order.borrow(), "abbaabbaabbaabba");
        assert!((ratio.median - 0.5).abs() < 0.002, "{ratio:?}");
        assert!(ratio.low <= ratio.median && ratio.median <= ratio.high && ratio.high - ratio.low < 0.04);
        assert_eq!((ratio.pairs, ratio.disturbed), (8, 0));
    }

    #[test]
    fn disturbed_pairs_are_left_out_and_none_left_is_an_error() {
        let mut round = 0;
        let a = || {
            round += 1;
            Ok(if round == 2 { figures(100.0, 0.2) } else { figures(3.0, 0.0) })
        };
        let ratio = compare(3, a, || Ok(figures(1.0, 0.0)), Figures::cpu_s_per_gb).unwrap();
        assert_eq!(ratio, Ratio { median: 3.0, low: 3.0, high: 3.0, pairs: 2, disturbed: 1 });
        let stolen = || Ok(figures(1.0, 0.5));
        assert!(compare(3, stolen, stolen, Figures::cpu_s_per_gb).is_err());
        assert!(compare(2, stolen, || Err("it failed".into()), Figures::cpu_s_per_gb).is_err());
    }
}
