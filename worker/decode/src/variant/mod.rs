//! VARIANT: JSON text in Arrow strings, and what is done with it without building trees.
//!
//! Comes in: JSON text, or any Arrow value. Goes out: *canonical* JSON text (no white space outside
//! strings, object keys sorted by bytes and unique, the shortest escapes, numbers digit for digit as
//! they were), and the values found at paths. Text that is not canonical is read too, text that is not
//! JSON gives NULL or an error, never a panic. Nesting is bounded.

mod canonical;
mod compare;
mod path;
pub mod scan;
mod write;

pub use canonical::{JsonError, MAX_NESTING, canonical_into, parse_json, push_escaped};
pub use compare::compare;
pub use path::{PathStep, get_path, path_of};
pub use write::{JsonWriter, rows_to_json, to_json};
