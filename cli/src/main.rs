//! Entry point: parses the command line, runs the command, prints one error.

use std::process::ExitCode;

use clap::Parser;
use stevedore::commands::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
