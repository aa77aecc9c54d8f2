//! Where a fault happens: the lab, the flows, and the marks of cause and cure.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::Path;
use std::time::Duration;

use super::{Measured, Newcomer, timeline};
use crate::measure::{Flow, FlowReport, now};
use crate::world::{Node, NodePod, World};
use flannel_testbed::{Context, Daemon, Error, Process, Result, SOON, eventually, pause};

/// When a flow counts as flowing: so many answers in so long.
const STEADY: (usize, Duration) = (30, Duration::from_millis(400));
/// The number of the pod that a fault adds to the host that is hit.
const NEW_POD: u8 = 9;
/// Longer than Docker waits for anything.
const DOCKER: Duration = Duration::from_secs(90);
/// How long a new host gets while the cause lasts, before it counts as waiting.
const JOIN: Duration = Duration::from_millis(1500);

/// A lab with traffic, about to be broken.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The lab.
    pub world: &'a World,
    /// The daemon that an upgrade brings, if one was given.
    pub upgrade_to: Option<&'a Path>,
    flows: RefCell<Option<(Flow, Flow)>>,
    begin: f64,
    cause: Cell<Option<f64>>,
    cured: Cell<Option<f64>>,
    new_container: Cell<Option<Newcomer>>,
    new_host: Cell<Option<Newcomer>>,
    newcomer: OnceCell<Daemon>,
    settled: Cell<bool>,
}

impl<'a> Scene<'a> {
    /// Starts the flows: c1 to c2 (`inbound`: c2 to c1), and c3 to c2.
    pub(super) fn begin(world: &'a World, inbound: bool, upgrade_to: Option<&'a Path>) -> Result<Self> {
        let flow = |from: usize, to: usize| -> Result<Flow> {
            let (from, target) = (&world.nodes()[from], world.nodes()[to].pod()?.server()?);
            from.pod()?.run(|_| Flow::start(target))?.context(|| format!("a flow from {} to {target}", from.name()))
        };
        let begin = now();
        let flows = (if inbound { flow(1, 0)? } else { flow(0, 1)? }, flow(2, 1)?);
        let scene = Self {
            world,
            upgrade_to,
            flows: RefCell::new(Some(flows)),
            begin,
            cause: Cell::new(None),
            cured: Cell::new(None),
            new_container: Cell::new(None),
            new_host: Cell::new(None),
            newcomer: OnceCell::new(),
            settled: Cell::new(false),
        };
        scene.flowing(SOON)?;
        Ok(scene)
    }

    /// The host that is hit.
    pub fn victim(&self) -> &'a Node {
        &self.world.nodes()[0]
    }

    /// The host that the flows go to.
    pub fn other(&self) -> &'a Node {
        &self.world.nodes()[1]
    }

    /// The host that has not joined yet.
    pub fn spare(&self) -> &'a Node {
        &self.world.nodes()[3]
    }

    /// From now on it is broken.
    pub fn cause(&self) {
        self.cause.set(Some(now()));
    }

    /// From now on it is whole again.
    pub fn cured(&self) {
        self.cured.set(Some(now()));
    }

    /// Lets the cause last: its length is part of the fault, no condition ends it.
    pub fn last(&self, seconds: f64) -> Result<()> {
        pause(Duration::from_secs_f64(seconds));
        Ok(())
    }

    /// Tries a new container on the host that is hit.
    pub fn try_new_container(&self) -> Result<()> {
        let made = self.victim().new_pod(self.world, &self.world.topology().network[0].name, NEW_POD);
        let works = match made {
            Ok(pod) => {
                let works = self.reaches(&pod);
                works.is_ok()
            }
            Err(_) => false,
        };
        self.new_container.set(Some(if works { Newcomer::Works } else { Newcomer::Waits }));
        Ok(())
    }

    /// `docker run` of a new container on the host that is hit, in the background.
    pub(super) fn begin_new_container(&self) -> Result<Process> {
        self.victim().docker()?.begin_to_run(self.victim(), NEW_POD)
    }

    /// The same command later: still at it, as who waits for something that will come back, and not given up.
    pub(super) fn new_container_waits(&self, run: &Process) -> Result<()> {
        if let Some(status) = run.exited()? {
            return Err(Error::new(format!("docker run did not wait: {status}: {}", run.log())));
        }
        self.new_container.set(Some(Newcomer::Waits));
        Ok(())
    }

    /// The new container of such a command comes, and reaches the other host.
    pub(super) fn new_container_comes(&self, run: &Process) -> Result<()> {
        let status = run.exit_within(DOCKER)?;
        if !status.success() {
            return Err(Error::new(format!("docker run: {status}: {}", run.log())));
        }
        self.reaches(&self.victim().container(&self.world.topology().network[0].name, NEW_POD)?)
    }

    fn reaches(&self, pod: &NodePod) -> Result<()> {
        let target = self.other().pod()?.server()?;
        eventually("the new container reaches the other host", Duration::from_millis(1500), || {
            pod.run(|_| Flow::start(target))?.context(String::new)?.stop().context(String::new).map(drop)
        })
    }

    /// Tries a new host; it goes on trying when it has to wait.
    pub fn try_new_host(&self) -> Result<()> {
        let daemon = self.launch_spare()?;
        let joined =
            eventually("a new host", JOIN, || if daemon.has_written() { Ok(()) } else { Err(Error::new("it waits")) });
        self.new_host.set(Some(if joined.is_ok() { Newcomer::Works } else { Newcomer::Waits }));
        Ok(())
    }

    fn launch_spare(&self) -> Result<Daemon> {
        if let Some(daemon) = self.newcomer.get() {
            return Ok(daemon.clone());
        }
        let daemon = self.spare().launch(self.world, None)?.swap_remove(0);
        Ok(self.newcomer.get_or_init(|| daemon).clone())
    }

    /// Nothing is to be tried after this fault: its body has seen to it itself.
    pub fn no_newcomer(&self) {
        self.settled.set(true);
    }

    /// Waits until both flows flow, after something that was done before the cause.
    pub fn flows_on(&self) -> Result<()> {
        self.flowing(SOON)
    }

    /// Waits until both flows flow.
    pub(super) fn flowing(&self, within: Duration) -> Result<()> {
        let count = || {
            let flows = self.flows.borrow();
            flows.as_ref().map_or((0, 0), |(victim, bystander)| (victim.answered(), bystander.answered()))
        };
        let mut since = (now(), count());
        eventually("the flows flow", within, || {
            let (time, (one, other)) = (now(), count());
            let (victim, bystander) = (one - since.1.0, other - since.1.1);
            if victim >= STEADY.0 && bystander >= STEADY.0 {
                return Ok(());
            }
            if time - since.0 > STEADY.1.as_secs_f64() {
                since = (time, (one, other));
            }
            Err(Error::new(format!("{victim} and {bystander} answers in {:.1} s", time - since.0)))
        })
    }

    /// After the fault: a host that has not joined yet joins, and both it and the others have the way to each other.
    pub(super) fn newcomer_is_reached(&self) -> Result<()> {
        if self.settled.get() {
            return Ok(());
        }
        self.launch_spare()?.wrote()?;
        let nodes = [self.victim(), self.spare()];
        self.world.populate(&[self.spare()])?;
        self.world.settle(&nodes).context(|| "a host that joins after the fault".to_owned())?;
        self.world.nodes()[2].pod()?.reaches(self.spare().pod()?)
    }

    /// Ends the flows; what they saw.
    pub(super) fn end(self) -> Result<Measured> {
        let (victim, bystander) = self.flows.take().context(|| "the flows have ended".to_owned())?;
        let ended = |flow: Flow| flow.stop().context(|| "a flow".to_owned());
        let (victim, bystander) = (ended(victim)?, ended(bystander)?);
        let cause = self.cause.get().context(|| "a fault without a cause".to_owned())?;
        Ok(self.measured(&victim, &bystander, cause))
    }

    #[expect(clippy::cast_precision_loss, reason = "some thousand pings")]
    fn measured(&self, victim: &FlowReport, bystander: &FlowReport, cause: f64) -> Measured {
        let cured = self.cured.get();
        let end = cured.unwrap_or(f64::MAX);
        let meanwhile = victim.pings.iter().filter(|mark| (cause..end).contains(&mark.at)).count();
        let lost_meanwhile = victim.lost(cause, end);
        Measured {
            cause: cause - self.begin,
            cured: cured.map(|at| at - self.begin),
            length: victim.pings.last().map_or(0.0, |mark| mark.at - self.begin),
            lost: victim.lost_ever(),
            sent: victim.pings.len(),
            bystander_lost: bystander.lost_ever(),
            gap: victim.longest_gap(),
            heal: victim.healed_after(cured.unwrap_or(cause)),
            share: lost_meanwhile as f64 * 100.0 / meanwhile.max(1) as f64,
            lost_outside: victim.lost_ever() - lost_meanwhile,
            tcp_gap: victim.tcp.longest_gap,
            tcp_broken: victim.tcp.broken.clone().or_else(|| bystander.tcp.broken.clone()),
            new_container: self.new_container.get(),
            new_host: self.new_host.get(),
            timeline: timeline(victim, self.begin),
        }
    }
}
