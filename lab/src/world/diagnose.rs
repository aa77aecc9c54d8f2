//! The state of every host as files, for whoever has to find out why a trial failed.

use std::path::Path;

use flannel_testbed::diagnose::{host_state, section};
use flannel_testbed::{Context as _, Result};

use super::World;

/// A file for each host with its state, the logs as they are, and etcd's keys, in a directory.
pub(super) fn write(world: &World, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).context(|| directory.display().to_string())?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).context(|| path.display().to_string())
    };
    for node in world.nodes() {
        let mut text = String::new();
        host_state(&mut text, node);
        put(&format!("{}.txt", node.name()), &text)?;
    }
    let keys =
        world.etcd().list("/").map(|all| all.iter().map(|kv| format!("{}\n    {}\n", kv.key, kv.value)).collect());
    let mut text = String::new();
    section(&mut text, "etcd: keys", keys);
    for (member, etcd) in world.etcds().iter().enumerate() {
        section(&mut text, &format!("etcd{member}: log"), Ok(etcd.log()));
    }
    put("etcd.txt", &text)?;
    for name in ["underlay.pcap", "tcpdump.log"] {
        let from = world.directory().join(name);
        if from.exists() {
            std::fs::copy(&from, directory.join(name)).context(|| from.display().to_string())?;
        }
    }
    Ok(())
}
