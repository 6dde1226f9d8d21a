//! Logs, spans and metrics: set up once by a process.
