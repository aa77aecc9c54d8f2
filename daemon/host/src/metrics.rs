//! Counters and gauges for `/metrics`, in the OpenMetrics text format.
//!
//! A program declares its table with [`metrics!`](crate::metrics!), one line a sample. A counter is a place in memory:
//! the packet path pays for one atomic addition and nothing else.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its type in the text format.
    pub const KIND: &str = "counter";

    /// Starts at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one; returns the new count.
    pub fn inc(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Its type in the text format.
    pub const KIND: &str = "gauge";

    /// Starts at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets the value.
    pub fn set(&self, value: usize) {
        self.0.store(u64::try_from(value).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value as it is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The family's name, without the `_total` of a counter.
    pub family: &'static str,
    /// `counter`, `gauge` or `info`.
    pub kind: &'static str,
    /// Labels as they stand in the text, without braces; empty for none.
    pub labels: &'static str,
    /// The family's help text.
    pub help: &'static str,
    /// The value.
    pub value: u64,
}

/// The text of `/metrics`. Samples of one family must follow each other; the first one's help is the family's.
pub fn render(samples: impl IntoIterator<Item = Sample>) -> String {
    let mut text = String::new();
    let mut current = "";
    for Sample { family, kind, labels, help, value } in samples {
        if family != current {
            current = family;
            write!(text, "# TYPE {family} {kind}\n# HELP {family} {help}\n").expect("a String takes every write");
        }
        let suffix = match kind {
            Counter::KIND => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(text, "{family}{suffix}{labels} {value}").expect("a String takes every write");
    }
    text.push_str("# EOF\n");
    text
}

/// Declares `Metrics` and its one instance `METRICS`: a line a sample, as
/// `field: Counter = "family_name" ["label=\"value\""], "Help text.";`.
#[macro_export]
macro_rules! metrics {
    ($($field:ident: $kind:ident = $family:literal $([$labels:literal])?, $help:literal;)*) => {
        /// The numbers this program exposes.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $crate::metrics::$kind,)*
        }

        /// The process's table.
        pub static METRICS: Metrics = Metrics { $($field: $crate::metrics::$kind::new(),)* };

        impl Metrics {
            /// All values, in the order of the table.
            pub fn samples(&self) -> Vec<$crate::metrics::Sample> {
                vec![$($crate::metrics::Sample {
                    family: $family,
                    kind: $crate::metrics::$kind::KIND,
                    labels: concat!("", $($labels)?),
                    help: $help,
                    value: self.$field.get(),
                }),*]
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_one_header_and_a_line_per_sample() {
        let sample = |family, kind, labels, value| Sample { family, kind, labels, help: "Some.", value };
        let text = render([
            sample("a", Gauge::KIND, "", 1),
            sample("b", Counter::KIND, "x=\"1\"", 2),
            sample("b", Counter::KIND, "x=\"2\"", 3),
        ]);
        assert_eq!(
            text,
            "# TYPE a gauge\n# HELP a Some.\na 1\n# TYPE b counter\n# HELP b Some.\nb_total{x=\"1\"} 2\nb_total{x=\"2\"} 3\n# EOF\n"
        );
    }
}
