//! Known answers and properties of `SealKey` and `OpenKey`, over both stacks.
