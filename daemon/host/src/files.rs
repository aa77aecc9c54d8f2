//! Files that others read at any moment: a reader sees the old content or the new, whole, also across a power cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of files that everybody may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of files for root alone.
pub const PRIVATE: u32 = 0o600;

/// Writes a public file whose place the operator chose: a symbolic link is followed, and what is not a regular file (a
/// pipe, `/dev/stdout`) is written into instead of replaced. Missing directories are created.
pub fn write(path: &Path, text: &str) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => replace(&fs::canonicalize(path)?, text.as_bytes(), PUBLIC),
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes()),
        Err(error) if error.kind() == ErrorKind::NotFound => replace(path, text.as_bytes(), PUBLIC),
        Err(error) => Err(error),
    }
}

/// Puts a file with this content and mode (whatever the umask) in place of `path`. Missing directories are created.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    put(path, content, mode, |temporary| fs::rename(temporary, path))
}

/// Creates a file with this content and mode; false if there is one already, which is left as it is.
pub fn create_new(path: &Path, content: &[u8], mode: u32) -> Result<bool> {
    let mut created = true;
    put(path, content, mode, |temporary| match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            created = false;
            fs::remove_file(temporary)
        }
        linked => linked.and_then(|()| fs::remove_file(temporary)),
    })?;
    Ok(created)
}

/// Writes a complete temporary file beside `path` and lets `publish` give it its name. Nothing is left on an error.
fn put(path: &Path, content: &[u8], mode: u32, publish: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let name = path.file_name().ok_or_else(|| Error::other("the path names no file"))?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let finish = || {
        let mut file = create_temporary(&temporary, mode)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        publish(&temporary)?;
        File::open(directory)?.sync_all()
    };
    finish().inspect_err(|_| match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!("cannot remove {}: {error}", temporary.display());
        }
        Ok(()) | Err(_) => {}
    })
}

/// A new file, never one that somebody put there. In a container the process ID is always the same, so a file of this
/// name can be left from a crash: it is removed.
fn create_temporary(path: &PathBuf, mode: u32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_made_with_its_directories_and_leaves_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/subnet.env");
        for text in ["one", "two"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, "text").is_err());
        assert!(write(&root.path().join("subnet.env/."), "text").is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_followed_and_devices_stay() {
        let root = tempfile::tempdir().unwrap();
        let (file, link, null) = (root.path().join("file"), root.path().join("link"), root.path().join("null"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        write(&link, "new").unwrap();
        write(&null, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        for link in [link, null] {
            assert!(fs::symlink_metadata(link).unwrap().is_symlink());
        }
    }

    #[test]
    fn an_existing_file_is_kept_by_create_new() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/key");
        assert!(create_new(&path, b"first", 0o400).unwrap());
        assert!(!create_new(&path, b"second", 0o400).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    /// A link in the place of the temporary file must not be followed: the directory may be writable by others.
    #[test]
    fn a_link_in_the_temporary_place_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (path, victim) = (root.path().join("state"), root.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, root.path().join(format!(".state.{}", std::process::id()))).unwrap();
        replace(&path, b"mine", PRIVATE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
