//! How a scenario ends: done, failed with a sentence, or skipped with the reason.
//!
//! A skip is never silent: it carries what was missing, and `verify` prints it by name.

use std::fmt;

/// Why a scenario did not pass.
#[derive(Debug)]
pub enum Stop {
    /// Something is wrong with what is tested, or with the test.
    Failed(String),
    /// This machine lacks what the test needs.
    Skipped(String),
}

pub type Result<T = ()> = std::result::Result<T, Stop>;

/// Adds what was being done to an error.
pub trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Stop::Failed(format!("{what}: {error}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Stop::Failed(what.to_string()))
    }
}

impl Stop {
    pub fn is_skip(&self) -> bool {
        matches!(self, Stop::Skipped(_))
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Failed(why) | Stop::Skipped(why) => f.write_str(why),
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Failed(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Stop {
        Stop::Failed(why.to_owned())
    }
}

/// Ends the scenario with a sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if $condition {
        } else {
            return Err($crate::outcome::Stop::Failed(format!($($sentence)+)));
        }
    };
}
