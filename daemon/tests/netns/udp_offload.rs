//! The udp backend with the kernel's offloads and without, as upstream is, in every combination: what is carried is the
//! same.

use std::time::Duration;

use crate::support::*;
use crate::udp_packets::{Datagram, checksum};

const MEGABYTES: usize = 1_000_000;

fn config(offload: bool) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"udp","Offload":{offload}}}}}"#)
}

/// Two hosts, each with its own idea of offloads, and a pod on each.
fn with_hosts(offloads: [bool; 2], body: impl FnOnce(&Lab, [&Pod; 2]) -> Result<()>) {
    lab(2, &config(offloads[0])).check(|lab| {
        for (host, offload) in lab.hosts().iter().zip(offloads) {
            lab.configure(&config(offload))?;
            let daemon = host.up(FLANNELD, &["-healthz-port=8081"])?;
            one_line(&daemon.log(), &["carrying packets", if offload { "many datagrams" } else { "one datagram" }]);
        }
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("a first answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        body(lab, [&one, &two])
    });
}

fn offloaded(host: &Host, direction: &str) -> Result<u64> {
    sample(host, &format!("flannel_udp_offloaded_total{{direction=\"{direction}\"}}"))
}

fn all_kinds_of_packets(offloads: [bool; 2]) {
    with_hosts(offloads, |lab, [one, two]| {
        for (sender, receiver) in [(one, two), (two, one)] {
            // Fragments, and packets that fill the MTU.
            Ping::once(sender, sender.directory(), &format!("-i 0.02 -c 5 -W 2 -s 4000 {}", receiver.address()))?
                .all_answered(60)?;
            sender.ping_whole(receiver.address(), 1472)?.all_answered(60)?;
        }
        for (sender, receiver) in [(one, two), (two, one)] {
            transfer(sender, receiver, receiver.address(), 20 * MEGABYTES)?;
        }
        for (host, offload) in lab.hosts().iter().zip(offloads) {
            // 40 MB are 28,000 packets.
            for direction in ["out", "in"] {
                let count = offloaded(host, direction)?;
                // Single datagrams of a host without offloads come singly.
                let expected = if offload && (direction == "out" || offloads == [true, true]) { 5_000 } else { 0 };
                assert!(count >= expected, "{} {direction}: {count}", host.name());
                assert!(offload || count == 0, "{} {direction}: {count}", host.name());
            }
        }
        Ok(())
    });
}

#[test]
fn both_with_offloads() {
    all_kinds_of_packets([true, true]);
}

#[test]
fn with_offloads_to_and_from_a_host_without() {
    all_kinds_of_packets([true, false]);
}

#[test]
fn both_without_offloads() {
    all_kinds_of_packets([false, false]);
}

/// Every datagram of a TCP transfer holds one whole IPv4 packet with right checksums, as any host can read it.
#[test]
fn each_datagram_is_one_whole_summed_packet() {
    with_hosts([true, true], |lab, [one, two]| {
        // So that the kernel cuts before the tap looks.
        lab.host(1).exec("ethtool -K eth0 tx-udp-segmentation off")?;
        let tap = lab.host(2).run(|inside| tap(inside, Duration::from_millis(500)))??;
        let reading = std::thread::spawn(move || {
            let mut packets = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = tap.recv(&mut buffer) {
                packets.push(buffer[..length].to_vec());
            }
            packets
        });
        transfer(one, two, two.address(), MEGABYTES)?;
        let packets = reading.join().expect("the tap's thread");
        let outer = packets.iter().filter_map(|p| Datagram::parse(p).ok());
        let inner: Vec<Vec<u8>> = outer
            .filter(|d| d.header.source == lab.host(1).address() && d.source_port == 8285)
            .map(|d| d.payload)
            .collect();
        let mut bytes = 0;
        for packet in &inner {
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(checksum(&packet[..20]), 0, "header checksum of {:02x?}", &packet[..20]);
            assert!(packet.len() <= 1472, "{}", packet.len());
            if packet[9] == 6 {
                let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
                let whole = [&packet[12..20], &[0, 6], &length, &packet[20..]].concat();
                assert_eq!(checksum(&whole), 0, "TCP checksum of {:02x?}", &packet[..40]);
                bytes += packet.len() - 20 - usize::from(packet[32] >> 4) * 4;
            }
        }
        // The tap may miss some under load, but not most.
        assert!(bytes > MEGABYTES / 2, "{bytes} bytes of {} packets", inner.len());
        Ok(())
    });
}

/// A way that does not take datagrams of full size in a group, only apart (in fragments): they go apart.
#[test]
fn what_does_not_go_together_goes_apart() {
    lab(2, &config(true)).check(|lab| {
        let (h1, h2) = (lab.host(1), lab.host(2));
        // Sockets from now on let their packets be fragmented.
        h1.sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        for host in lab.hosts() {
            host.up(FLANNELD, &["-healthz-port=8081"])?;
        }
        let (one, two) = (h1.pod(1)?, h2.pod(1)?);
        eventually("a first answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        h1.ip(&format!("route add {} dev eth0 mtu 1300", h2.address()))?;
        transfer(&one, &two, two.address(), MEGABYTES)?;
        let split = sample(h1, "flannel_udp_split_groups_total")?;
        assert!(split > 0, "no group was refused");
        Ok(())
    });
}

/// A device that can't sum what the kernel is to cut (EIO, put in by strace): its datagrams go apart.
#[test]
fn what_a_device_can_not_cut_goes_apart() {
    lab(2, &config(true)).check(|lab| {
        let (h1, h2) = (lab.host(1), lab.host(2));
        let daemon = h1.up(FLANNELD, &["-healthz-port=8081"])?;
        h2.up(FLANNELD, &["-healthz-port=8081"])?;
        let (one, two) = (h1.pod(1)?, h2.pod(1)?);
        eventually("a first answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        let pid = daemon.process().pid();
        let mut command = h1.command("strace");
        command.args(["-f", "-qq", "-e", "trace=sendmsg", "-e", "inject=sendmsg:error=EIO:when=20+20"]);
        command.args(["-o", "/dev/null", "-p", &pid.to_string()]);
        let tracer = Process::start("strace", command, &h1.directory().join("strace.log"))?;
        eventually("strace at every thread", SOON, || all_traced(pid))?;
        transfer(&one, &two, two.address(), MEGABYTES)?;
        let split = sample(h1, "flannel_udp_split_groups_total")?;
        assert!(split > 0, "no group was refused");
        tracer.signal(Signal::TERM)?;
        tracer.exit_within(SOON)?;
        // What it rests of: a thousand groups. Then it sends together again.
        transfer(&one, &two, two.address(), 100 * MEGABYTES)?;
        assert_eq!(sample(h1, "flannel_udp_split_groups_total")?, split);
        Ok(())
    });
}

/// An error while a thread of this process has no tracer.
fn all_traced(pid: u32) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in std::fs::read_dir(&tasks).context(|| tasks.clone())? {
        let path = task.context(|| tasks.clone())?.path().join("status");
        let status = std::fs::read_to_string(&path).context(|| path.display().to_string())?;
        if status.contains("TracerPid:\t0\n") {
            return Err(Error::new(status));
        }
    }
    Ok(())
}

/// Flows to two hosts at once, and both arrive whole.
#[test]
fn two_hosts_at_once() {
    lab(3, &config(true)).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &[])?;
        }
        let pods: Vec<Pod> = lab.hosts().iter().map(|h| h.pod(1)).collect::<Result<_>>()?;
        for other in &pods[1..] {
            eventually("a first answer", SOON, || pods[0].ping(other.address(), 1)?.all_answered(60))?;
        }
        std::thread::scope(|scope| {
            let flows: Vec<_> = pods[1..]
                .iter()
                .map(|other| scope.spawn(|| transfer(&pods[0], other, other.address(), 40 * MEGABYTES)))
                .collect();
            flows.into_iter().try_for_each(|flow| flow.join().expect("no panic").map(drop))
        })
    });
}
