//! The TLS options: certificate authority and client certificate.

use etcd_client::{Certificate, Identity, TlsOptions};

use crate::leases::StoreError;
use crate::options::EtcdOptions;

pub(super) fn options(options: &EtcdOptions) -> Result<TlsOptions, StoreError> {
    // The TLS library silently accepts a file without any certificate.
    let read = |flag: &str, path: &str, wanted: &str| {
        let pem = std::fs::read_to_string(path)
            .map_err(|e| StoreError::Setup(format!("flag -{flag}: cannot read {path}: {e}")))?;
        if pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(wanted)) {
            return Ok(pem);
        }
        Err(StoreError::Setup(format!("flag -{flag}: {path} contains no {wanted} in PEM form")))
    };
    let mut tls = TlsOptions::new();
    if options.cafile.is_empty() {
        tls = tls.with_native_roots();
    } else {
        tls = tls.ca_certificate(Certificate::from_pem(read("etcd-cafile", &options.cafile, "CERTIFICATE")?));
    }
    match (options.certfile.as_str(), options.keyfile.as_str()) {
        ("", "") => Ok(tls),
        ("", _) => Err(StoreError::Setup("flag -etcd-keyfile needs -etcd-certfile beside it".into())),
        (_, "") => Err(StoreError::Setup("flag -etcd-certfile needs -etcd-keyfile beside it".into())),
        (cert, key) => {
            let cert = read("etcd-certfile", cert, "CERTIFICATE")?;
            Ok(tls.identity(Identity::from_pem(cert, read("etcd-keyfile", key, "PRIVATE KEY")?)))
        }
    }
}
