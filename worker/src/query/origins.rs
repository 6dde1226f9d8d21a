//! The files that rows were first written to, by number.
//!
//! Rows that were copied from file to file name the file that they come from. Within one query such a name is a
//! number, so that rows are compared, joined and kept by numbers; the names stand here once each.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The names that a query met.
#[derive(Debug, Default)]
pub(crate) struct Origins(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, i64>,
    names: Vec<Arc<str>>,
}

impl Origins {
    /// The number of a name: the same for the same name.
    pub(crate) fn number(&self, name: &str) -> i64 {
        let mut known = self.0.lock();
        if let Some(number) = known.numbers.get(name) {
            return *number;
        }
        let (name, number) = (Arc::<str>::from(name), known.names.len() as i64);
        known.names.push(Arc::clone(&name));
        known.numbers.insert(name, number);
        number
    }

    /// The name of a number.
    pub(crate) fn name(&self, number: i64) -> Option<Arc<str>> {
        self.0.lock().names.get(usize::try_from(number).ok()?).cloned()
    }
}

/// The part of a file's name that no other file has: the random one, where it is one of ours.
pub(crate) fn unique_part(name: &str) -> &str {
    let stem = name.strip_suffix(".parquet").unwrap_or(name);
    match stem.rsplit_once('-') {
        Some((_, last)) if last.len() == 32 && last.bytes().all(|byte| byte.is_ascii_hexdigit()) => last,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let origins = Origins::default();
        let numbers = ["a", "b", "a"].map(|name| origins.number(name));
        assert_eq!(numbers, [0, 1, 0]);
        assert_eq!(&*origins.name(1).unwrap(), "b");
        assert!(origins.name(2).is_none() && origins.name(-1).is_none());
    }

    #[test]
    fn files_of_ours_are_told_apart_by_what_is_random_in_their_names() {
        let random = "0123456789abcdef0123456789abcdef";
        assert_eq!(unique_part(&format!("job-3-2-0-{random}.parquet")), random);
        assert_eq!(unique_part("day=1/part-00000.parquet"), "day=1/part-00000");
        assert_eq!(unique_part("other.orc"), "other.orc");
    }
}
