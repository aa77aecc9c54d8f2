//! The systemd units under dist/, read by systemd itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");
const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist");
const UNITS: [&str; 3] = ["flanneld.service", "flannel-docker.service", "flannel-docker.socket"];

#[expect(clippy::disallowed_methods, reason = "there is no runtime to block")]
fn output(command: &mut Command) -> Output {
    let done = command.output();
    done.unwrap_or_else(|e| panic!("{command:?}: {e}; if it is systemd-analyze: apt-get install systemd"))
}

/// A directory of units as `dist/install` puts them, with a stand-in for Docker's own unit. The programs, which are not
/// installed here, are this build's.
fn installed() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path();
    for unit in UNITS {
        let text = fs::read_to_string(Path::new(DIST).join("systemd").join(unit)).unwrap();
        let here = text.replace("/usr/local/bin/flannel-docker", FLANNELD).replace("/usr/local/bin/flanneld", FLANNELD);
        fs::write(units.join(unit), here).unwrap();
    }
    fs::write(units.join("docker.service"), "[Service]\nType=notify\nExecStart=/bin/false\n").unwrap();
    fs::create_dir(units.join("docker.service.d")).unwrap();
    for drop_in in ["flannel.conf", "docker-ce.conf"] {
        let text = fs::read_to_string(Path::new(DIST).join("systemd/docker.service.d").join(drop_in)).unwrap();
        fs::write(units.join("docker.service.d").join(drop_in), text.replace("/usr/bin/dockerd", "/bin/false"))
            .unwrap();
    }
    root
}

/// What systemd has to say about the units in a directory.
fn verify(units: &Path) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]).args(UNITS.map(|unit| units.join(unit)));
    command.arg(units.join("docker.service")).env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()));
    let done = output(&mut command);
    (done.status.success(), String::from_utf8(done.stderr).unwrap())
}

/// The lines that are about our files.
fn ours<'a>(said: &'a str, units: &Path) -> Vec<&'a str> {
    let names = [units.to_str().unwrap(), "flannel", "docker"];
    said.lines().filter(|line| names.iter().any(|name| line.contains(name))).collect()
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let root = installed();
    let (good, said) = verify(root.path());
    assert_eq!(ours(&said, root.path()), [""; 0], "{said}");
    assert!(good, "{said}");
}

/// The test above can fail: each of these mistakes is found.
#[test]
fn systemd_would_find_a_mistake() {
    for (file, from, to) in [
        ("flanneld.service", "WatchdogSec=", "WatchDogSecs="),
        ("flanneld.service", FLANNELD, "/nonexistent/flanneld"),
        ("flannel-docker.service", "Type=simple", "Type=simpel"),
        ("flannel-docker.socket", "ListenStream=", "ListenStreams="),
        ("docker.service.d/flannel.conf", "EnvironmentFile=", "EnvironmentFiles="),
    ] {
        let root = installed();
        let path = root.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let (good, said) = verify(root.path());
        assert!(!good || !ours(&said, root.path()).is_empty(), "{file} with {to}: {said}");
    }
}

#[test]
fn what_is_installed_is_what_the_units_and_docs_name() {
    let root = tempfile::tempdir().unwrap();
    let (programs, target) = (root.path().join("bin"), root.path().join("root"));
    fs::create_dir(&programs).unwrap();
    let install = || output(Command::new(Path::new(DIST).join("install")).arg("-n").args([&programs, &target]));
    fs::copy(FLANNELD, programs.join("flanneld")).unwrap();
    let refused = install();
    assert!(!refused.status.success() && !target.exists(), "one program is missing, and yet: {refused:?}");
    fs::copy(FLANNELD, programs.join("flannel-docker")).unwrap();
    for _ in 0..2 {
        let done = install();
        assert!(done.status.success(), "{done:?}");
        // What the administrator has written stays.
        fs::write(target.join("etc/default/flanneld"), "FLANNELD_IFACE=eth7\n").unwrap();
    }
    assert_eq!(fs::read_to_string(target.join("etc/default/flanneld")).unwrap(), "FLANNELD_IFACE=eth7\n");
    for unit in UNITS {
        let text = fs::read_to_string(target.join("etc/systemd/system").join(unit)).unwrap();
        for program in text.lines().filter_map(|line| line.strip_prefix("ExecStart")?.split_once('=')) {
            let program = program.1.split(' ').next().unwrap().trim_start_matches('/');
            assert!(target.join(program).is_file(), "{unit}: {program}");
        }
    }
    for file in [
        "etc/systemd/networkd.conf.d/flannel.conf",
        "etc/systemd/network/10-flannel.network",
        "etc/systemd/network/10-flannel.link",
        "usr/local/share/flannel/docker.service.d/flannel.conf",
        "usr/local/share/flannel/docker.service.d/docker-ce.conf",
    ] {
        assert!(target.join(file).is_file(), "{file}");
    }
    let link = target.join("usr/local/bin/mk-docker-opts.sh");
    let done = output(Command::new(link).args(["-f", "/nonexistent", "-c", "-d", "/dev/stdout"]).env_clear());
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "DOCKER_OPTS=\"\"\n");
}

/// First-boot examples name units and files that the installer brings.
#[test]
fn examples_name_what_there_is() {
    for example in ["plugin.yaml", "classic.yaml"] {
        let text = fs::read_to_string(Path::new(DIST).join("cloud-config").join(example)).unwrap();
        assert!(text.starts_with("#cloud-config\n"), "{example}");
        let words =
            text.split_whitespace().filter(|word| word.contains("flannel") && !word.contains("docker.service.d"));
        let units: Vec<_> = words.filter(|word| word.ends_with(".service") || word.ends_with(".socket")).collect();
        assert!(!units.is_empty(), "{example} starts nothing");
        assert!(units.iter().all(|unit| UNITS.contains(unit)), "{example}: {units:?}");
    }
    let classic = fs::read_to_string(Path::new(DIST).join("cloud-config/classic.yaml")).unwrap();
    assert!(classic.contains("/usr/local/share/flannel/docker.service.d/flannel.conf"));
}
