//! Scheduled tasks, on the leader: ticks become runs, runs are carried out, failures are told.
//!
//! [`schedule`] computes ticks and is pure; [`driver`] looks at the state and acts; `run` takes one run from
//! its condition to its end; `notify` delivers what failed to webhooks. All of it reads views and proposes. The
//! statements of a run have ids that are made from the run's, so that a new leader which takes a run over finds
//! what its statements have done already.

pub mod driver;
mod notify;
mod run;
pub mod schedule;
