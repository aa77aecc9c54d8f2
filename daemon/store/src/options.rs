//! How etcd is reached: the flags of upstream, with its names and defaults, for any program's table of flags.

use std::fmt;

use flannel_core::flags::{Flag, Set};

/// Upstream's default of `-etcd-endpoints`.
pub const ENDPOINTS: &str = "http://127.0.0.1:4001,http://127.0.0.1:2379";
/// Upstream's default of `-etcd-prefix`.
pub const PREFIX: &str = "/coreos.com/network";

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Comma-separated URLs.
    pub endpoints: String,
    /// The key below which the config and the leases are.
    pub prefix: String,
    /// File of the client key, PEM.
    pub keyfile: String,
    /// File of the client certificate, PEM.
    pub certfile: String,
    /// File of the certificate authority, PEM.
    pub cafile: String,
    /// User name; used only together with a password.
    pub username: String,
    /// Password; never printed.
    pub password: String,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: ENDPOINTS.into(),
            prefix: PREFIX.into(),
            keyfile: String::new(),
            certfile: String::new(),
            cafile: String::new(),
            username: String::new(),
            password: String::new(),
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} as {:?}", self.endpoints, self.prefix, self.username)
    }
}

impl AsMut<Self> for EtcdOptions {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

/// The flags, for a program whose options contain [`EtcdOptions`]. With them go the variables: the program's prefix and
/// the name in upper case, as `FLANNELD_ETCD_ENDPOINTS`.
pub fn flags<T: AsMut<EtcdOptions>>() -> [Flag<T>; 7] {
    [
        Flag {
            name: "etcd-cafile",
            set: Set::Text(|o, v| o.as_mut().cafile = v),
            default: "",
            help: "PEM file of the certificate authority of etcd's certificate",
        },
        Flag {
            name: "etcd-certfile",
            set: Set::Text(|o, v| o.as_mut().certfile = v),
            default: "",
            help: "PEM file of the client certificate for etcd",
        },
        Flag {
            name: "etcd-endpoints",
            set: Set::Text(|o, v| o.as_mut().endpoints = v),
            default: ENDPOINTS,
            help: "comma-separated URLs of etcd",
        },
        Flag {
            name: "etcd-keyfile",
            set: Set::Text(|o, v| o.as_mut().keyfile = v),
            default: "",
            help: "PEM file of the client certificate's key",
        },
        Flag {
            name: "etcd-password",
            set: Set::Text(|o, v| o.as_mut().password = v),
            default: "",
            help: "password of the etcd user",
        },
        Flag {
            name: "etcd-prefix",
            set: Set::Text(|o, v| o.as_mut().prefix = v),
            default: PREFIX,
            help: "where config and leases are in etcd",
        },
        Flag { name: "etcd-username", set: Set::Text(|o, v| o.as_mut().username = v), default: "", help: "etcd user" },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_variables_set_the_options() {
        let mut options = EtcdOptions::default();
        let args = ["-etcd-endpoints=https://a:2379".to_owned(), "--etcd-password".to_owned(), "hunter2".to_owned()];
        let variable = |name: &str| (name == "FLANNEL_ETCD_PREFIX").then(|| "/blue".to_owned());
        flannel_core::flags::parse(&flags(), &mut options, args, "FLANNEL", variable).unwrap();
        assert_eq!((options.endpoints.as_str(), options.prefix.as_str()), ("https://a:2379", "/blue"));
        assert_eq!(options.password, "hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
