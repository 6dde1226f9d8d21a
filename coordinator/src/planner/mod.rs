//! Plans: what a job will do, kept so that any leader can go on with it.
//!
//! Comes in: bound statements. Goes out: plans for a job's record, claims and slices for the state, specs
//! for workers. It lists files and reads table metadata; it never decodes rows.

pub mod copy;
pub mod evolution;
pub mod plan;
pub mod planning;
pub mod slices;
pub mod spec;
