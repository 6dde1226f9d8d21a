//! The seam for lanes: table writers on one worker that many small slices share, reached over Arrow
//! Flight, so that ten thousand tiny files become a few well-sized ones. Nothing routes slices to lanes
//! yet; every slice writes its own files.

use super::BatchSink;

/// A [`BatchSink`] whose files also hold rows of other slices: they may be committed only when every
/// (slice, attempt) in them was accepted.
pub trait LaneSink: BatchSink {
    /// The (slice, attempt)s whose rows the files hold.
    fn attempts(&self) -> Vec<stevedore_common::ids::AttemptKey>;
}
