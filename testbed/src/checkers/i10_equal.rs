//! I10: nodes with the same applied index have the same state digest.

use std::collections::HashMap;

use super::Report;

/// What a node said of its state: its applied index, and the digest there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub node: String,
    pub applied: u64,
    pub digest: String,
}

/// Samples of all nodes, taken at any time. Only indexes that two nodes speak of count as judged.
pub fn check(samples: &[Sample]) -> Report {
    let mut first: HashMap<u64, &Sample> = HashMap::new();
    let mut report = Report::default();
    for sample in samples {
        let before = *first.entry(sample.applied).or_insert(sample);
        if before.node == sample.node && before.digest == sample.digest {
            continue;
        }
        report.judged += 1;
        if before.digest != sample.digest {
            report.violations.push(format!(
                "at index {} {} has {} and {} has {}",
                sample.applied, before.node, before.digest, sample.node, sample.digest
            ));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_difference_is_caught() {
        let sample =
            |node: &str, applied, digest: &str| Sample { node: node.into(), applied, digest: digest.into() };
        for (samples, judged, violations) in [
            (vec![sample("a", 5, "x"), sample("b", 5, "x"), sample("c", 6, "y")], 1, 0),
            (vec![sample("a", 5, "x"), sample("a", 5, "x")], 0, 0),
            (vec![sample("a", 5, "x"), sample("b", 5, "z")], 1, 1),
            (vec![sample("a", 5, "x"), sample("a", 5, "z")], 1, 1),
        ] {
            let report = check(&samples);
            assert_eq!((report.judged, report.violations.len()), (judged, violations), "{samples:?}");
        }
    }
}
