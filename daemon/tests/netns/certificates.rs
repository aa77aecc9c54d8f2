//! Certificates for a test's etcd, made by `openssl`: an authority, and what it signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::*;

/// An authority with its files in a directory of its own.
pub(crate) struct Authority {
    directory: PathBuf,
}

/// The files of a certificate and its key.
pub(crate) struct Certificate {
    pub(crate) cert: String,
    pub(crate) key: String,
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

impl Authority {
    /// A new authority below `parent`.
    pub(crate) fn new(parent: &Path, name: &str) -> Result<Self> {
        let directory = parent.join(name);
        std::fs::create_dir(&directory).context(|| directory.display().to_string())?;
        let made = Self { directory };
        made.openssl(&format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN={name}"))?;
        Ok(made)
    }

    /// Its own certificate, what `-etcd-cafile` takes.
    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem")
    }

    /// A certificate for `name`, which `names` (as `IP:192.0.2.1` or `DNS:etcd`) make a server's.
    pub(crate) fn sign(&self, name: &str, names: &str) -> Result<Certificate> {
        let extensions = if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        let file = self.directory.join(format!("{name}.ext"));
        std::fs::write(&file, format!("basicConstraints=CA:FALSE\n{extensions}"))
            .context(|| file.display().to_string())?;
        self.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile {name}.ext"
        ))?;
        Ok(Certificate { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) })
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    fn openssl(&self, line: &str) -> Result<()> {
        let mut openssl = Command::new("openssl");
        output(openssl.current_dir(&self.directory).args(line.split_whitespace())).map(drop)
    }
}
