//! Seal in one table, open in another.
