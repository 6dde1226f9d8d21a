//! Compiles the `.proto` files without `protoc` (protox) and writes the descriptor set for reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 7] = ["common", "job", "worker", "raft", "command", "admin", "stage"];

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<String> = FILES.iter().map(|name| format!("stevedore/v1/{name}.proto")).collect();
    for path in &paths {
        println!("cargo:rerun-if-changed={path}");
    }
    let descriptors = protox::compile(&paths, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("stevedore.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
