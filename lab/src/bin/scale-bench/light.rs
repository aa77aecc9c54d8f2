//! What etcd bears: hosts without a kernel (`daemon/examples/light-hosts.rs`) start in a storm, follow each other and
//! renew.

use std::path::Path;
use std::process::Stdio;

use flannel_testbed::{Context as _, Error, Lab, Result};

use crate::start;

/// For how many seconds all renew.
const RENEW: usize = 10;

pub(crate) fn table(program: &Path, sizes: &[usize], spread: Option<usize>) -> Result<()> {
    for &hosts in sizes {
        // Two thousand in a minute, the others at the same pace.
        let spread = spread.unwrap_or(hosts * 60 / 2000);
        println!("\n{hosts} light hosts start over {spread} s, then renew for {RENEW} s");
        let lab = Lab::flat(1)?;
        lab.configure(r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#)?;
        // Each has a connection of its own.
        let mut command = lab.host(1).command("sh");
        command.args(["-c", r#"ulimit -n "$(ulimit -H -n)"; exec "$@""#, "sh"]).arg(program).arg(lab.etcd().endpoint());
        command.args([hosts, spread, RENEW].map(|n| n.to_string()));
        let what = || "light-hosts".to_owned();
        // How far it is it says on standard error.
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(what)?;
        let said = std::io::read_to_string(child.stdout.take().context(what)?).context(what)?;
        let status = child.wait().context(what)?;
        if !status.success() {
            return Err(Error::new(format!("light-hosts: {status}")));
        }
        for line in said.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            println!("  {name:<28} {value:>12}");
        }
        let etcd = lab.etcd().process()?;
        println!("  {:<28} {:>12.1}", "etcd_processor_seconds", etcd.cpu_seconds()?);
        println!("  {:<28} {:>12.0}", "etcd_peak_rss_mib", start::kibi(etcd.peak_rss_kib()?));
    }
    Ok(())
}
