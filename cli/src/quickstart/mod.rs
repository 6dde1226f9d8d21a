//! The tour: generates files, loads them, explains.
//!
//! Owns: a folder that carries its marker, the files in it, the statements of the tour and what must come
//! out of them. Everything runs through the same instance and the same client as in a server. A result that
//! is not the one foretold ends the tour with an error, so that the tour is a smoke test as well.

mod events;
mod folder;
mod generate;
mod report;
mod statements;
mod tour;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

use crate::client::Client;
use crate::instance::{Instance, InstanceConfig, no_metrics};
use folder::TourFolder;
use generate::{Sizes, generate};
use tour::Tour;

/// Takes the tour in a folder. What an earlier tour left there is removed first.
///
/// # Errors
/// The folder is not the tour's; a statement failed; a result is not the one foretold.
pub async fn run(data_dir: PathBuf) -> Result<()> {
    let started = Instant::now();
    let folder = blocking(move || TourFolder::prepare(&data_dir)).await?;
    println!(
        "This tour works in {}: files in 'files', the instance in 'instance'.\n",
        folder.root().display()
    );

    print!("Generating road-test files … ");
    std::io::stdout().flush()?;
    let files = folder.files();
    let generated = blocking(move || generate(&files, Sizes::default())).await?;
    println!(
        "{} files, {} ({} ms)",
        generated.files,
        report::size(generated.bytes),
        started.elapsed().as_millis()
    );

    print!("Starting an embedded instance … ");
    std::io::stdout().flush()?;
    let starting = Instant::now();
    let config =
        InstanceConfig { allowed_fs_roots: vec![folder.files()], ..InstanceConfig::new(folder.instance()) };
    let instance =
        Instance::start(config, no_metrics()).await.context(|| "starting the instance".to_owned())?;
    println!("{} ({} ms)\n", instance.url(), starting.elapsed().as_millis());

    let result = match Client::connect(&instance.url()).await {
        Ok(client) => {
            let mut out = std::io::stdout();
            Tour::new(&client, &folder, generated.expected, &mut out).run().await
        }
        Err(error) => Err(error),
    };
    let stopped = instance.stop().await;
    result?;
    stopped.context(|| "stopping the instance".to_owned())?;
    println!("{}", report::farewell(&folder)?);
    println!("The tour took {:.1} s.", started.elapsed().as_secs_f64());
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("the tour panicked: {e}")))?
}
