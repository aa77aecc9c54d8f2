//! The command line: flags with one or two dashes, as flanneld's, and `FLANNEL_DOCKER_*` in the environment.

use std::path::PathBuf;

use flannel_core::flags::{Flag, Leftover, Set, Stop, parse, usage};
use flannel_core::subnet_env;

/// The program's name in messages.
pub const PROGRAM: &str = "flannel-docker";

const PREFIX: &str = "FLANNEL_DOCKER";
const SOCKET: &str = "/run/docker/plugins/flannel.sock";
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const STATE_DIR: &str = "/var/lib/flannel-docker";

/// What the user chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opts {
    /// Where Docker finds us; its name without `.sock` is the driver's.
    pub socket: PathBuf,
    /// The driver's name where Docker does not take it from the socket's; empty when it does.
    pub driver: String,
    /// What flanneld writes.
    pub subnet_file: PathBuf,
    /// Where networks and endpoints are remembered.
    pub state_dir: PathBuf,
    /// Where Docker is asked which networks and containers it has; empty for never.
    pub docker_socket: PathBuf,
    /// The network to be made in Docker and kept there; none if empty.
    pub docker_network: String,
    /// Its `-o` options.
    pub docker_network_options: Vec<(String, String)>,
    /// 0 tells what is done, 1 and more every call.
    pub verbosity: i64,
    /// Say the version and go.
    pub version: bool,
    /// doctor: repair what can be repaired.
    pub fix: bool,
    /// doctor: say it for programs.
    pub json: bool,
}

impl Default for Opts {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            driver: String::new(),
            subnet_file: subnet_env::DEFAULT_PATH.into(),
            state_dir: STATE_DIR.into(),
            docker_socket: DOCKER_SOCKET.into(),
            docker_network: String::new(),
            docker_network_options: Vec::new(),
            verbosity: 0,
            version: false,
            fix: false,
            json: false,
        }
    }
}

const FLAGS: &[Flag<Opts>] = &[
    Flag {
        name: "socket",
        set: Set::Text(|o, v| o.socket = v.into()),
        default: SOCKET,
        help: "the socket to listen on; its name without .sock is the driver's name",
    },
    Flag {
        name: "driver",
        set: Set::Text(|o, v| v.clone_into(&mut o.driver)),
        default: "",
        help: "the driver's name where it is not the socket's: a managed plugin's has a tag (flannel:latest)",
    },
    Flag {
        name: "subnet-file",
        set: Set::Text(|o, v| o.subnet_file = v.into()),
        default: subnet_env::DEFAULT_PATH,
        help: "the file flanneld writes",
    },
    Flag {
        name: "state-dir",
        set: Set::Text(|o, v| o.state_dir = v.into()),
        default: STATE_DIR,
        help: "where networks and endpoints are recorded",
    },
    Flag {
        name: "docker-socket",
        set: Set::Text(|o, v| o.docker_socket = v.into()),
        default: DOCKER_SOCKET,
        help: "where Docker is asked which networks and containers it has; empty for never",
    },
    Flag {
        name: "docker-network",
        set: Set::Text(|o, v| o.docker_network = v),
        default: "",
        help: "make and keep a Docker network of this name, so that \"docker run --network NAME\" just works",
    },
    Flag {
        name: "docker-network-options",
        set: Set::Text(|o, v| o.docker_network_options = options(&v)),
        default: "",
        help: "its -o options, as flannel.gateway=true,flannel.isolation=false",
    },
    Flag { name: "v", set: Set::Int(|o, v| o.verbosity = v), default: "0", help: "1 and more log every call" },
    Flag {
        name: "version",
        set: Set::Bool(|o, v| o.version = v),
        default: "false",
        help: "print the version and exit",
    },
    Flag {
        name: "fix",
        set: Set::Bool(|o, v| o.fix = v),
        default: "false",
        help: "doctor: repair what can be repaired",
    },
    Flag { name: "json", set: Set::Bool(|o, v| o.json = v), default: "false", help: "doctor: report as JSON" },
];

/// `a=b,c=d`
fn options(text: &str) -> Vec<(String, String)> {
    let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
    words
        .map(|w| w.split_once('=').map_or((w.to_owned(), String::new()), |(k, v)| (k.to_owned(), v.to_owned())))
        .collect()
}

impl Opts {
    /// Reads `args`, without the program's name, and the environment.
    pub fn parse(
        args: impl IntoIterator<Item = String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Leftover), Stop> {
        let mut opts = Self::default();
        let left = parse(FLAGS, &mut opts, args, PREFIX, variable)?;
        Ok((opts, left))
    }

    /// The driver's name: what users give with `-d`.
    pub fn driver_name(&self) -> Result<String, String> {
        if !self.driver.is_empty() {
            return Ok(self.driver.clone());
        }
        let name = self.socket.file_stem().and_then(|s| s.to_str()).filter(|s| !s.is_empty());
        let socket = self.socket.display();
        match name {
            Some(name) if self.socket.extension().is_some_and(|e| e == "sock") => Ok(name.to_owned()),
            _ => Err(format!("-socket={socket}: Docker finds plugins by files NAME.sock; choose such a name")),
        }
    }

    /// The nftables table of our own ports and ways out; one for each instance, too.
    pub fn table(&self) -> String {
        self.chain().to_lowercase()
    }

    /// The chain of our forward rules: one name for the usual state, another for each further instance on the host.
    pub fn chain(&self) -> String {
        const CHAIN: &str = "FLANNEL-DOCKER";
        if self.state_dir.as_path() == STATE_DIR {
            return CHAIN.to_owned();
        }
        // Short, since iptables allows 28 characters.
        format!("{CHAIN}-{:08x}", flannel_core::filter::digest(self.state_dir.as_os_str().as_encoded_bytes()))
    }
}

/// The usage text.
pub fn help() -> String {
    let doctor =
        format!("{PROGRAM} doctor [-fix] [-json]: reports inconsistencies between Docker, plugin, kernel and lease");
    format!("{}\n{doctor}\n", usage(PROGRAM, FLAGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<(Opts, Leftover), Stop> {
        let env: Vec<_> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Opts::parse(args.iter().map(|a| (*a).to_owned()), |name| {
            env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
        })
    }

    #[test]
    fn flags_win_over_the_environment() {
        let (opts, _) = read(
            &["-socket", "/tmp/a.sock", "--v=2"],
            &[("FLANNEL_DOCKER_SOCKET", "/tmp/b.sock"), ("FLANNEL_DOCKER_SUBNET_FILE", "/tmp/subnet.env")],
        )
        .unwrap();
        assert_eq!(opts.socket.to_str(), Some("/tmp/a.sock"));
        assert_eq!(opts.subnet_file.to_str(), Some("/tmp/subnet.env"));
        assert_eq!((opts.verbosity, opts.state_dir.to_str()), (2, Some(STATE_DIR)));
        assert!(matches!(read(&["-etcd-endpoints=x"], &[]), Err(Stop::Unknown(_))));
    }

    #[test]
    fn the_ready_networks_options_are_a_list() {
        let (opts, _) = read(&["-docker-network=net", "-docker-network-options=a=b, c=d=e,,f"], &[]).unwrap();
        let expected = [("a", "b"), ("c", "d=e"), ("f", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!((opts.docker_network.as_str(), opts.docker_network_options), ("net", expected.to_vec()));
    }

    #[test]
    fn the_sockets_name_is_the_drivers() {
        let name = |socket: &str| Opts { socket: socket.into(), ..Opts::default() }.driver_name();
        assert_eq!(name("/run/docker/plugins/flannel.sock").as_deref(), Ok("flannel"));
        assert!(name("/run/docker/plugins/flannel").unwrap_err().contains("NAME.sock"));
        assert!(name("/").is_err());
        let managed = Opts { driver: "flannel:latest".into(), ..Opts::default() };
        assert_eq!(managed.driver_name().as_deref(), Ok("flannel:latest"));
    }

    #[test]
    fn each_instance_has_its_chain() {
        let chain = |dir: &str| Opts { state_dir: dir.into(), ..Opts::default() }.chain();
        assert_eq!(chain(STATE_DIR), "FLANNEL-DOCKER");
        assert_ne!(chain("/tmp/a"), chain("/tmp/b"));
        assert!(chain("/tmp/a").len() <= 28);
    }
}
