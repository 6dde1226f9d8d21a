//! The names of data files: `<job>-<slice>-<attempt>-<n>-<uuid>.parquet`, all in one folder, so that the
//! files of a job can be listed by prefix and no two attempts ever share one.

use stevedore_common::ids::AttemptKey;
use uuid::Uuid;

/// Hands out names for the files of one attempt.
#[derive(Debug)]
pub struct FileNames {
    attempt: AttemptKey,
    next: u32,
}

impl FileNames {
    /// Names for an attempt.
    pub fn new(attempt: AttemptKey) -> Self {
        Self { attempt, next: 0 }
    }

    /// A name that no file has.
    pub fn next_name(&mut self) -> String {
        let n = self.next;
        self.next += 1;
        let AttemptKey { slice, attempt } = self.attempt;
        format!("{}-{}-{}-{n}-{}.parquet", slice.job, slice.slice, attempt, Uuid::new_v4().simple())
    }
}

#[cfg(test)]
mod tests {
    use stevedore_common::ids::{Attempt, JobId, SliceIndex, SliceKey};

    use super::*;

    #[test]
    fn a_name_says_who_wrote_the_file_and_is_never_reused() {
        let job = JobId::generate();
        let key = AttemptKey { slice: SliceKey { job, slice: SliceIndex(3) }, attempt: Attempt(2) };
        let mut names = FileNames::new(key);
        let (first, second) = (names.next_name(), names.next_name());
        assert!(first.starts_with(&format!("{job}-3-2-0-")), "{first}");
        assert!(second.starts_with(&format!("{job}-3-2-1-")), "{second}");
        assert_ne!(first.rsplit('-').next(), second.rsplit('-').next());
        assert_ne!(FileNames::new(key).next_name(), first);
    }
}
