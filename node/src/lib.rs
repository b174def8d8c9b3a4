//! node
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod fault;
pub mod io;
pub mod observe;
pub mod steering;
