//! The tour: generates files, loads them, explains.
