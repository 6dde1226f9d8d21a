//! The client's face: statements in, tables and progress out.
