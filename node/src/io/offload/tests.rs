//! Splitting and coalescing, against a naive reference and against each other.
