//! The driver of this host, as the options say.

use super::{Driver, Guards, Settings};
use crate::docker::engine::Engine;
use crate::firewall::Guard;
use crate::firewall::iptables::Iptables;
use crate::links::netlink::Netlink;
use crate::nat::nft::Nft;
use crate::opts::Opts;
use crate::store::Store;
use crate::store::lease::SubnetFile;

impl Driver<Netlink> {
    /// Goes on where the state left off, over the kernel of this network namespace; see [`Driver::restore`].
    pub fn open(opts: &Opts) -> Result<Self, String> {
        let settings = Settings {
            name: opts.driver_name()?,
            subnet_file: SubnetFile(opts.subnet_file.clone()),
            engine: Engine::at(opts.docker_socket.clone()),
        };
        let store = Store::open(&opts.state_dir).map_err(|e| e.to_string())?;
        let guards =
            Guards { forward: Guard::start(Iptables::new(opts.chain())), nat: Guard::start(Nft::new(opts.table())) };
        Ok(Self::new(settings, store, links(opts)?, guards))
    }
}

/// The kernel, with the mark of this state.
pub fn links(opts: &Opts) -> Result<Netlink, String> {
    Netlink::open(&opts.state_dir.display().to_string()).map_err(|e| e.to_string())
}
