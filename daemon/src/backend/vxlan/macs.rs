//! The MAC addresses of VTEPs, remembered.

use std::net::IpAddr;
use std::path::PathBuf;

use flannel_core::name::{IfName, Mac};

use flannel_host::files;

/// Where MAC addresses outlive a reboot: a file for each device and public address. So a copied disk, whose host has
/// another address, does not bring a second VTEP with the same MAC.
#[derive(Debug, Clone)]
pub(super) struct MacFiles(pub(super) PathBuf);

impl MacFiles {
    fn path(&self, device: &IfName, local: IpAddr) -> PathBuf {
        self.0.join(format!("{device}-{local}.mac"))
    }

    pub(super) fn read(&self, device: &IfName, local: IpAddr) -> Option<Mac> {
        let path = self.path(device, local);
        let text = std::fs::read_to_string(&path).ok()?;
        match text.trim().parse::<Mac>() {
            Ok(mac) if mac.is_unicast() => Some(mac),
            _ => {
                tracing::warn!("{} holds no MAC address of a host: writing it again", path.display());
                None
            }
        }
    }

    /// Not being able to remember is no reason not to go on.
    pub(super) fn write(&self, device: &IfName, local: IpAddr, mac: Mac) {
        let path = self.path(device, local);
        if let Err(error) = files::write(&path, &format!("{mac}\n")) {
            tracing::warn!(
                "flag -state-dir: can't write {}: {error}; after a reboot {device} gets a new MAC",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_remembered_for_its_device_and_address_alone() {
        let root = tempfile::tempdir().unwrap();
        let macs = MacFiles(root.path().join("state"));
        let device = IfName::new("flannel.1").unwrap();
        let [here, elsewhere]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        assert_eq!(macs.read(&device, here), None);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        macs.write(&device, here, mac);
        assert_eq!((macs.read(&device, here), macs.read(&device, elsewhere)), (Some(mac), None));
        std::fs::write(macs.path(&device, here), "01:00:00:00:00:00").unwrap();
        assert_eq!(macs.read(&device, here), None);
    }
}
