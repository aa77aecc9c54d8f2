//! What the kernel asks for one route more, by the shape of the routes: docs/explanation/scale.md says why they differ.

use std::fmt::Write as _;
use std::time::Instant;

use flannel_testbed::{Context as _, Namespace, Result};

use crate::lease::Absent;

/// A way to write the route to a host's subnet; the first of its words makes what the route needs.
type Shape = (&'static str, fn(Absent, usize) -> [String; 2]);

const SHAPES: [Shape; 4] = [
    ("one gateway a route", |h, _| [String::new(), format!("route add {0}/24 via {0} dev d0 onlink", h.base())]),
    ("one metric a route", |h, n| {
        [String::new(), format!("route add {0}/24 via {0} dev d0 onlink metric {1}", h.base(), n + 1)]
    }),
    ("one nexthop object a route", |h, n| {
        let id = n + 1;
        [format!("nexthop add id {id} via {} dev d0 onlink", h.base()), format!("route add {}/24 nhid {id}", h.base())]
    }),
    ("one gateway for all", |h, _| [String::new(), format!("route add {}/24 via 10.9.9.9 dev d0 onlink", h.base())]),
];

pub(crate) fn table(sizes: &[usize]) -> Result<()> {
    println!("\nip -batch of N routes on one device, by their shape, s (with all they need)");
    let heads: String = sizes.iter().map(|size| format!("{size:>9}")).collect();
    println!("{:<28}{heads}", "");
    for (row, (name, shape)) in SHAPES.iter().enumerate() {
        let mut cells = String::new();
        for (column, &size) in sizes.iter().enumerate() {
            let namespace = Namespace::create(800 + row * 10 + column, "routes")?;
            namespace.ip("link add d0 type bridge")?;
            namespace.ip("addr add 10.9.0.1/32 dev d0")?;
            namespace.ip("link set d0 up")?;
            let mut text = String::new();
            for number in 0..size {
                for line in shape(Absent::new(number), number).iter().filter(|line| !line.is_empty()) {
                    writeln!(text, "{line}").context(|| "text".to_owned())?;
                }
            }
            let file = tempfile::NamedTempFile::new().context(|| "temporary file".to_owned())?;
            std::fs::write(file.path(), text).context(|| file.path().display().to_string())?;
            let start = Instant::now();
            namespace.exec(&format!("ip -batch {}", file.path().display()))?;
            write!(cells, "{:>9.3}", start.elapsed().as_secs_f64()).context(|| "text".to_owned())?;
        }
        println!("{name:<28}{cells}");
    }
    Ok(())
}
