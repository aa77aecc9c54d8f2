//! A lab of namespaces that stays: `up --in namespaces` starts this program again in the background, which holds the lab
//! and answers on a socket. When it ends, however it ends, the lab goes (at the latest when the next one is made).
//!
//! ```text
//!   /run/flannel-lab/NAME.json   what there is: process, hosts and pods with their namespaces
//!   /run/flannel-lab/NAME.sock   one request a connection, a word; answered by text, its first line ok or error
//!   /run/flannel-lab/NAME.log    what the background process says
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::matrix::Matrix;
use crate::topology::Topology;
use crate::world::{Node, World};
use crate::{Error, Result};

const DIRECTORY: &str = "/run/flannel-lab";
/// How long a request may take: a matrix of a slow topology.
const ANSWER: Duration = Duration::from_secs(120);

/// What is written of a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The process that holds it.
    pub pid: u32,
    /// The topology's name.
    pub topology: String,
    /// The backend.
    pub backend: String,
    /// Hosts, containers and routers, each with the name that `ip netns` knows it by.
    pub namespaces: BTreeMap<String, String>,
    /// Lines for people: hosts with their leases and containers.
    pub about: Vec<String>,
}

fn place(name: &str, ending: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.{ending}"))
}

/// The file that the background process writes to.
#[must_use]
pub fn log_file(name: &str) -> PathBuf {
    place(name, "log")
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::State(format!("{}: {error}", path.display()))
}

/// The running lab of this name, if there is one.
pub fn find(name: &str) -> Result<Option<State>> {
    let path = place(name, "json");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed(&path))?,
    };
    let state: State =
        serde_json::from_str(&text).map_err(|error| Error::State(format!("{}: {error}: delete it", path.display())))?;
    // Who holds a lab listens; a file of one that was killed says nothing.
    Ok(UnixStream::connect(place(name, "sock")).is_ok().then_some(state))
}

/// Makes the directory of sockets and files.
pub fn make_directory() -> Result<()> {
    std::fs::create_dir_all(DIRECTORY).map_err(failed(Path::new(DIRECTORY)))
}

/// Asks the running lab of this name.
pub fn ask(name: &str, request: &str) -> Result<String> {
    let path = place(name, "sock");
    let answered = UnixStream::connect(&path).and_then(|mut stream| {
        stream.set_read_timeout(Some(ANSWER))?;
        writeln!(stream, "{request}")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = answered.map_err(failed(&path))?;
    match text.split_once('\n') {
        Some(("ok", rest)) => Ok(rest.to_owned()),
        Some((_, rest)) => Err(Error::State(rest.trim_end().to_owned())),
        None => Err(Error::State(format!("lab {name} ended while it was asked: see {}", log_file(name).display()))),
    }
}

/// Starts a lab, checks it and holds it until `down` is requested: all that the background process does.
pub fn hold(name: &str, topology: &Topology, flanneld: &Path, begin: Instant) -> Result<()> {
    make_directory()?;
    let socket = place(name, "sock");
    if UnixStream::connect(&socket).is_ok() {
        return Err(Error::State(format!("lab {name} runs already: flannel-lab down --name {name}")));
    }
    let world = World::build(topology, flanneld)?;
    let nodes: Vec<&Node> = world.nodes().iter().collect();
    world.start(&nodes)?;
    world.populate(&nodes)?;
    world.settle(&nodes)?;
    // A socket of one that was killed is in the way.
    drop(std::fs::remove_file(&socket));
    let listener = UnixListener::bind(&socket).map_err(failed(&socket))?;
    let first = try_all(&world, begin)?;
    let state = state(&world)?;
    let text = serde_json::to_string_pretty(&state).map_err(|error| Error::State(error.to_string()))?;
    let matrix = place(name, "matrix");
    std::fs::write(&matrix, serde_json::to_string(&first).unwrap_or_default()).map_err(failed(&matrix))?;
    let path = place(name, "json");
    // Last: who sees it knows that the lab is there.
    std::fs::write(&path, text).map_err(failed(&path))?;
    serve(&listener, &world);
    for ending in ["sock", "json", "matrix", "log"] {
        drop(std::fs::remove_file(place(name, ending)));
    }
    Ok(())
}

fn serve(listener: &UnixListener, world: &World) {
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        let begin = Instant::now();
        let (request, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let answer = match request {
            "matrix" => try_all(world, begin).map(|matrix| serde_json::to_string(&matrix).unwrap_or_default()),
            "status" => state(world).map(|state| state.about.join("\n")),
            "diagnose" => world.write_diagnosis(Path::new(rest)).map(|()| rest.to_owned()).map_err(Error::from),
            "down" => Ok("down".to_owned()),
            _ => Ok(String::new()),
        };
        let text = match &answer {
            Ok(text) => format!("ok\n{text}"),
            Err(error) => format!("error\n{error}\n"),
        };
        let mut stream = &stream;
        // Who asked may have gone.
        drop(stream.write_all(text.as_bytes()));
        if request == "down" {
            return;
        }
    }
}

/// Tries every path of a lab; what fails once more, for a capture of it.
pub fn try_all(world: &World, begin: Instant) -> Result<Matrix> {
    let places = world.places()?;
    let cells = world.try_all(&places)?;
    let matrix = Matrix {
        topology: world.topology().name.clone(),
        backend: world.topology().backend().to_owned(),
        runner: "namespaces".to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        places,
        cells,
    };
    if !matrix.wrong().is_empty()
        && let Err(error) = world.capture_failed(&matrix)
    {
        eprintln!("no capture of what failed: {error}");
    }
    Ok(matrix)
}

/// The matrix that the lab of this name began with.
pub fn first_matrix(name: &str) -> Result<Matrix> {
    let path = place(name, "matrix");
    let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
    serde_json::from_str(&text).map_err(|error| Error::State(format!("{}: {error}", path.display())))
}

fn state(world: &World) -> Result<State> {
    let mut namespaces = BTreeMap::new();
    let mut about = Vec::new();
    for (node, number) in world.nodes().iter().zip(1..) {
        namespaces.insert(node.name().to_owned(), node.namespace_name().to_owned());
        for network in node.networks() {
            let text = node.subnet_text_of(world, network)?;
            let lease = flannel_testbed::SubnetEnv::value(&text, "FLANNEL_SUBNET").unwrap_or("none");
            about.push(format!("{} ({}): lease {lease} on {network}", node.name(), node.address()));
        }
        for pod in node.pods() {
            let several = world.topology().network.len() > 1;
            let name = if several { format!("c{number}-{}", pod.network) } else { format!("c{number}") };
            let addresses: Vec<String> = pod.addresses().map(|address| address.to_string()).collect();
            about.push(format!("  {name}: {}", addresses.join(", ")));
            namespaces.insert(name, pod.name().to_owned());
        }
    }
    for (router, spec) in world.routers().iter().zip(&world.topology().router) {
        namespaces.insert(spec.name.clone(), router.name().to_owned());
    }
    for (member, etcd) in world.etcds().iter().enumerate() {
        namespaces.insert(format!("etcd{member}"), etcd.namespace().name().to_owned());
    }
    Ok(State {
        pid: std::process::id(),
        topology: world.topology().name.clone(),
        backend: world.topology().backend().to_owned(),
        namespaces,
        about,
    })
}
