//! Other ways to decide about capacity. Each says how much it wants, [`orders`] brings the same fleet there, so that what is
//! compared is the deciding and not the handiwork.

mod fixed;
mod hpa;
mod knative;
mod load;
mod oracle;
mod orders;
mod reactive;
mod skyserve;
#[cfg(test)]
mod tests;

pub use fixed::Fixed;
pub use hpa::Hpa;
pub use knative::Knative;
pub use oracle::Oracle;
pub use reactive::Reactive;
pub use skyserve::SkyServe;
