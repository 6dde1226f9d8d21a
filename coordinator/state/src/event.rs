//! What changed, for those who watch: schedulers, waiting clients, caches. Events carry no content;
//! the state is the truth.

use serde::{Deserialize, Serialize};
use stevedore_common::ids::{JobId, SliceIndex, TableId};

use crate::jobs::JobPhase;

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A job began, moved on, or made progress.
    JobChanged {
        /// The job.
        job: JobId,
        /// Its phase now.
        phase: JobPhase,
    },
    /// A slice was added, leased, released or accepted.
    SliceChanged {
        /// The job.
        job: JobId,
        /// The slice.
        slice: SliceIndex,
    },
    /// A table was created, dropped, renamed or committed to.
    TableChanged {
        /// The table.
        table: TableId,
    },
    /// A database, connection, stage, file format or notification integration changed.
    CatalogChanged,
    /// A scheduled task changed, or a run of one began or ended.
    TasksChanged,
}
