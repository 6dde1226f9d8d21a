//! The replicated state: commands, the pure function that applies them, and the views to read it.

pub mod view;
