//! The client's face: statements in, tables and progress out.
//!
//! Owns: how results, progress and mistakes look, scripts, the interactive prompt. Comes in: SQL text and a
//! [`crate::client::Client`]. Goes out: text on the writer it is given; progress and the place of a mistake
//! on standard error. It knows nothing of what statements mean.

mod mistakes;
mod progress;
mod prompt;
mod run;
mod tables;

use std::io::IsTerminal;

pub use prompt::prompt;
pub(crate) use run::{footer, skipped_note};
pub use run::{run_script, run_statement, start};
pub(crate) use tables::cells;
pub use tables::{Format, render};

/// How statements are run and shown.
#[derive(Debug, Clone)]
pub struct Options {
    /// How rows are printed.
    pub format: Format,
    /// Whether a bar on standard error follows the running job.
    pub progress: bool,
    /// Whether tables end with their row count and time.
    pub timing: bool,
    /// Rows of a table that are printed; the others are only counted. The other formats print all.
    pub max_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: Format::Table,
            progress: std::io::stderr().is_terminal(),
            timing: true,
            max_rows: 10_000,
        }
    }
}
