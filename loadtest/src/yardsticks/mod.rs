//! Other ways to do what Tidegate does, to measure our own by.

pub mod routing;
pub mod scaling;
