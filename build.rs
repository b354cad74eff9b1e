//! Compiles the protocol files with protox: no `protoc` on the machine is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let public = ["job", "run", "breaker", "cluster", "worker"];
    let mut files: Vec<String> = public.iter().map(|name| format!("chronarch/v1/{name}.proto")).collect();
    files.push("chronarch/peer/v1/raft.proto".to_owned());

    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What reflection serves: the public package alone, with what it imports.
    let reflected = protox::compile(&files[..public.len()], ["proto"])?;
    std::fs::write(out.join("chronarch.v1.bin"), prost::Message::encode_to_vec(&reflected))?;

    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    config.bytes([".chronarch.peer.v1"]);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
