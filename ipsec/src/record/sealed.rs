//! Replies that may leave only after their change is committed.

/// Holds `T` until the change that it goes with is applied. Only the commit path (`raft::handle`) calls `open`;
/// a tidy test checks that no other file does. Dropping it unopened is what happens to a refused decision.
#[must_use = "a sealed reply that nobody commits is never sent"]
pub struct Sealed<T>(T);

impl<T> Sealed<T> {
    pub fn new(inner: T) -> Self {
        Sealed(inner)
    }

    /// To be called only after the change was applied here.
    pub fn open(self) -> T {
        self.0
    }
}

impl<T> std::fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}
