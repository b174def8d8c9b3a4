//! A worker between fakes.
