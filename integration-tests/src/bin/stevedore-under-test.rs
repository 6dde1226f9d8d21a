//! `stevedore` as the tests start it: the same command line, built together with the tests, so that a
//! test never runs an older binary than the sources it stands for.

use std::process::ExitCode;

use clap::Parser;
use stevedore::commands::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
