//! What etcd bears: hosts without a kernel (`daemon/examples/light-hosts.rs`) start in a storm, follow each other and
//! renew.

use std::path::Path;

use flannel_lab::netns::{Lab, Result, output};

/// Hosts, and over how many seconds they start, and for how many all renew as fast as etcd answers.
const STORMS: [(usize, usize, usize); 3] = [(1000, 30, 10), (2000, 60, 10), (5000, 150, 10)];

pub(crate) fn table(program: &Path) -> Result<()> {
    for (hosts, spread, renew) in STORMS {
        println!("\n{hosts} light hosts start over {spread} s, then renew for {renew} s");
        let lab = Lab::flat(1)?;
        lab.configure(r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#)?;
        // Each has a connection of its own.
        let mut command = lab.host(1).command("sh");
        command.args(["-c", r#"ulimit -n "$(ulimit -H -n)"; exec "$@""#, "sh"]).arg(program).arg(lab.etcd().endpoint());
        command.args([hosts, spread, renew].map(|n| n.to_string()));
        for line in output(&mut command)?.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            println!("  {name:<28} {value:>12}");
        }
    }
    Ok(())
}
