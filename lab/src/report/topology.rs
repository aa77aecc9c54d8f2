//! The topology drawn: underlays as lines, hosts below them, routers where lines meet.

use maud::{Markup, html};

use crate::topology::Topology;

const BOX: usize = 84;
const GAP: usize = 16;
const LEFT: usize = 8;

/// As SVG; nothing for a topology whose file was not at hand.
pub(super) fn drawing(topology: &Topology) -> Markup {
    if topology.host.is_empty() {
        return html! {};
    }
    // Columns: the hosts of each underlay side by side, with a column between underlays for the router.
    let mut x = LEFT;
    let mut spans = Vec::new();
    let mut boxes = Vec::new();
    for underlay in &topology.underlay {
        let begin = x;
        for host in topology.host.iter().filter(|host| host.underlay == underlay.name) {
            boxes.push((x, host.name.clone(), topology.address_of(host).to_string()));
            x += BOX + GAP;
        }
        spans.push((underlay, begin, (x - GAP).max(begin + BOX)));
        x = (x + BOX / 2).max(begin + BOX + GAP);
    }
    let width = x.max(320);
    let view = format!("0 0 {width} 150");
    html! {
        div .scroll {
            svg viewBox=(view) width=(width) height="150" role="img" aria-label=(format!("topology {}", topology.name)) {
                @for (underlay, begin, end) in &spans {
                    line .net x1=(begin) y1="40" x2=(end) y2="40" {}
                    text x=(begin) y="14" { (underlay.name) " " (underlay.subnet) }
                    text .small x=(begin) y="28" {
                        "MTU " (underlay.mtu) @if let Some(rate) = &underlay.rate { ", " (rate) } @if underlay.ipv6.is_some() { ", IPv6" }
                    }
                }
                @for router in &topology.router {
                    @let joined: Vec<_> = spans.iter().filter(|(underlay, _, _)| router.joins.contains(&underlay.name)).collect();
                    @if let (Some((_, _, from)), Some((_, to, _))) = (joined.first(), joined.last()) {
                        line .wire x1=(from) y1="40" x2=(to) y2="40" {}
                        text x=(from + 4) y="56" { (router.name) }
                    }
                }
                @for (x, name, address) in &boxes {
                    line .wire x1=(x + BOX / 2) y1="40" x2=(x + BOX / 2) y2="80" {}
                    rect .box x=(x) y="80" width=(BOX) height="46" rx="6" {}
                    text x=(x + 8) y="100" { (name) }
                    text .small x=(x + 8) y="116" { (address) }
                }
                text .small x=(LEFT) y="144" {
                    @for (number, network) in topology.network.iter().enumerate() {
                        @if number > 0 { "; " }
                        "network " (network.name) ": " (network.config["Network"].as_str().unwrap_or("-")) ", "
                        (network.config["Backend"]["Type"].as_str().unwrap_or("udp"))
                    }
                }
            }
        }
    }
}
