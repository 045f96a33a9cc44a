//! Which offer is taken, and what is said of the others.
