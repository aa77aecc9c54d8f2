//! The matrix of a lab of namespaces.

use std::net::{IpAddr, SocketAddr};
use std::thread;

use super::{Node, World};
use crate::matrix::{Cell, Kind, Matrix, Path, Phase, Place, by_asker, cells, plan};
use crate::measure::{Answer, Ask, PORT, PUBLISHED, ask_all};
use flannel_testbed::{Context, Error, Namespace, Result, SOON, Signal, SubnetEnv, eventually, join};

impl World {
    /// Every place of the populated hosts.
    pub fn places(&self) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (node, number) in self.nodes().iter().zip(1..).filter(|(node, _)| node.pods().next().is_some()) {
            let mtu = self.topology().underlay_of(&node.spec().underlay).mtu;
            let place = |kind, name: String, network: &str, address: SocketAddr, mtu| Place {
                kind,
                name,
                host: node.name().to_owned(),
                network: network.to_owned(),
                address,
                mtu,
            };
            let several = self.topology().network.len() > 1;
            for pod in node.pods() {
                let network = &pod.network;
                let name = if several { format!("c{number}-{network}") } else { format!("c{number}") };
                let mtu = node.mtu_of(self, network)?;
                for address in pod.addresses() {
                    places.push(place(Kind::Container, name.clone(), network, (address, PORT).into(), mtu));
                }
                let text = node.subnet_text_of(self, network)?;
                for variable in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"] {
                    let Ok(gateway) = SubnetEnv::value(&text, variable) else { continue };
                    let address: IpAddr = gateway
                        .split('/')
                        .next()
                        .unwrap_or_default()
                        .parse()
                        .context(|| format!("{}: {variable}={gateway}", node.name()))?;
                    places.push(place(Kind::Gateway, node.name().to_owned(), network, (address, PORT).into(), mtu));
                }
            }
            for address in node.addresses(self.topology()) {
                places.push(place(Kind::Host, node.name().to_owned(), "", (address, PORT).into(), mtu));
            }
            if let Some(pod) = node.pods().next().filter(|pod| pod.addresses().any(|address| address.is_ipv4())) {
                let name = format!("{}:{PUBLISHED}", node.name());
                places.push(place(Kind::Published, name, &pod.network, (node.address(), PUBLISHED).into(), mtu));
            }
        }
        Ok(places)
    }

    /// Tries every path once; all askers at once, but one after the other for the throughput.
    pub fn try_all(&self, places: &[Place]) -> Result<Vec<Cell>> {
        let paths = plan(places, self.topology());
        Ok(cells(&paths, self.try_paths(places, &paths)?))
    }

    /// Tries what failed once more while every port of the switch is captured: the packets are evidence for
    /// [`World::write_diagnosis`], what becomes of them now is not in the results.
    pub fn capture_failed(&self, matrix: &Matrix) -> Result<()> {
        let capture = self.capture()?;
        eventually("tcpdump listens", SOON, || {
            let said = capture.log();
            if said.contains("listening on") { Ok(()) } else { Err(Error::new(said)) }
        })?;
        self.try_paths(&matrix.places, &matrix.failed())?;
        capture.signal(Signal::TERM)?;
        capture.exit_within(SOON).map(drop)
    }

    fn try_paths(&self, places: &[Place], paths: &[Path]) -> Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = Vec::new();
        for phase in [Phase::Quiet, Phase::Transfers] {
            let askers = by_asker(places, paths, phase);
            let answered = thread::scope(|scope| {
                let threads: Vec<_> =
                    askers.iter().map(|(name, asks)| scope.spawn(move || self.ask(places, name, asks))).collect();
                threads.into_iter().map(|thread| join(thread.join())).collect::<Result<Vec<_>>>()
            })?;
            answers.extend(answered.concat());
        }
        for (name, asks) in &by_asker(places, paths, Phase::Throughput) {
            answers.extend(self.ask(places, name, asks)?);
        }
        Ok(answers)
    }

    fn ask(&self, places: &[Place], name: &str, asks: &[Ask]) -> Result<Vec<Answer>> {
        let place = places.iter().find(|place| place.name == name && place.kind != Kind::Gateway);
        let place = place.context(|| format!("there is no place {name}"))?;
        let node: &Node = self.node(&place.host)?;
        let namespace: &Namespace = if place.kind == Kind::Host {
            node
        } else {
            let pod = node.pods().find(|pod| pod.network == place.network);
            pod.ok_or_else(|| Error::new(format!("{name}: no such pod")))?
        };
        namespace.run(|_| ask_all(asks))
    }
}
