//! node
pub mod io;
