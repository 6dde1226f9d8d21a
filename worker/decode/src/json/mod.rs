//! JSON by hand: the cutting of files into elements, the scanner that validates and skips values, and the
//! unescaping of strings.
//!
//! Comes in: bytes. Goes out: where a value ends, or what is wrong and where. Nothing is built for a value
//! that nobody asked for, nothing recurses, and nesting is limited.

pub(crate) mod elements;
pub(crate) mod scan;
pub(crate) mod unescape;
