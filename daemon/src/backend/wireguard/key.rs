//! The host's private key: a file, made when it is absent, so that the host keeps its key as long as the file is there.

use std::fs;
use std::io;
use std::path::Path;

use flannel_core::wireguard::{PrivateKey, PublicKey};

/// Names another key file than the usual one.
pub(super) const VARIABLE: &str = "WIREGUARD_KEY_FILE";

/// Reads the key; nothing when there is no file. Errors are one line that names the file.
pub(super) fn read(path: &Path) -> Result<Option<PrivateKey>, String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("read", path, &error)),
        Ok(text) => parse(&text, path).map(Some),
    }
}

/// Makes a key.
pub(super) fn make(path: &Path) -> Result<PrivateKey, String> {
    let made = generate().and_then(|key| flannel_host::files::create_new(path, key.to_base64().as_bytes(), 0o400));
    made.map_err(|e| fault("make", path, &e))?;
    // Another daemon of this host may have been quicker: what stands in the file counts.
    read(path)?.ok_or_else(|| format!("the key file {} was removed right after it was made", path.display()))
}

fn fault(what: &str, path: &Path, error: &io::Error) -> String {
    format!("can't {what} the key file {}: {error}; {VARIABLE} names another", path.display())
}

/// The public half.
pub(super) fn public(key: PrivateKey) -> PublicKey {
    PublicKey(x25519_dalek::x25519(key.0, x25519_dalek::X25519_BASEPOINT_BYTES))
}

fn parse(text: &str, path: &Path) -> Result<PrivateKey, String> {
    text.parse().map_err(|e| {
        format!(
            "the key file {} holds {e}; remove it, and a new key is made, or put one by `wg genkey`",
            path.display()
        )
    })
}

/// Random, with the bits set that make it a key of this curve (as `wg genkey` prints it).
fn generate() -> io::Result<PrivateKey> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    bytes[0] &= 248;
    bytes[31] = bytes[31] & 127 | 64;
    Ok(PrivateKey(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Private and public, from `openssl pkey -pubout` (type X25519) and from RFC 7748, section 6.1.
    #[test]
    fn the_public_half_is_what_others_compute() {
        for (private, expected) in [
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8="),
            ("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="),
        ] {
            assert_eq!(public(private.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/wgkey");
        assert_eq!(read(&path), Ok(None));
        let key = make(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), key.to_base64());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(read(&path), Ok(Some(key)));
        assert_eq!(make(&path), Ok(key), "one that is there is kept");
        assert_ne!(make(&root.path().join("other")).unwrap(), key);
        assert_eq!((key.0[0] & 7, key.0[31] & 192), (0, 64));
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("wgkey");
        fs::write(&path, "c2VjcmV0\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("remove it"), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "c2VjcmV0\n");
        assert!(read(root.path()).unwrap_err().contains("can't read the key file"));
        assert!(make(&path.join("below/a/file")).unwrap_err().contains("can't make the key file"));
    }
}
