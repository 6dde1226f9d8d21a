//! The leader's work: which slice runs where, and every job from phase to phase.
//!
//! [`decide`] decides and is pure; [`workers`] knows who is there; [`driver`] looks at the state and acts;
//! [`phases`] are the steps of a job that are the leader's own, `columns` those of a load that brings columns,
//! `housekeeping` what is done when nobody waits. All of it reads views and proposes; none of it writes the state.

mod columns;
pub mod decide;
pub mod driver;
mod housekeeping;
pub mod phases;
pub mod progress;
pub(crate) mod transactions;
pub(crate) mod unload;
pub mod workers;

pub(crate) use housekeeping::DAY_MS;
