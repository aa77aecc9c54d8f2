//! Small files that others read at any moment: a reader sees the old one or the new one, whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Writes `text` to `path`, also across a power cut. Mode 0644 whatever the umask; directories are made with their
/// parents. A link is followed, and what is no regular file (a pipe, `/dev/stdout`) is written into, not replaced.
pub fn write(path: &Path, text: &str) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => replace(&fs::canonicalize(path)?, text),
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes()),
        Err(error) if error.kind() == ErrorKind::NotFound => replace(path, text),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let name = path.file_name().ok_or_else(|| Error::other("it names no file"))?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    finish(directory, &temporary, path, text).inspect_err(|_| {
        // A half-made file would only lie about; what matters is the error that led here.
        if let Err(error) = fs::remove_file(&temporary) {
            tracing::debug!("can't remove {}: {error}", temporary.display());
        }
    })
}

fn finish(directory: &Path, temporary: &PathBuf, path: &Path, text: &str) -> Result<()> {
    let mut file = File::create(temporary)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(directory)?.sync_all()
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
}
