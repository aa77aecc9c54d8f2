//! The options, in the syntax of a shell's `getopts`, which is upstream's: `-i -c`, `-ic`, `-k KEY`, `-kKEY`; the first
//! word without a dash, or `--`, ends them, and what follows is ignored.

use std::path::PathBuf;

use flannel_core::docker_opts::{DEFAULT_PATH, LONGEST_PART, Wanted, assignments};
use flannel_core::subnet_env;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// What flanneld has written.
    pub(super) flannel_env: PathBuf,
    /// What Docker is to read.
    pub(super) docker_env: PathBuf,
    pub(super) wanted: Wanted,
}

/// Why nothing is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// `-h` was given.
    Help,
    /// One sentence on what is wrong.
    Bad(String),
}

const ADDRESS_POOL: &str = "address-pool";

pub(super) fn read(words: Vec<String>) -> Result<Options, Stop> {
    let mut options = Options {
        flannel_env: subnet_env::DEFAULT_PATH.into(),
        docker_env: DEFAULT_PATH.into(),
        wanted: Wanted { individual: false, combined: false, ..Wanted::default() },
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty() && *rest != "-") else { break };
        if let Some(size) = long(letters, &mut words) {
            options.wanted.address_pool = Some(pool_size(&size?)?);
        } else {
            options.letters(letters, &mut words)?;
        }
    }
    let wanted = &mut options.wanted;
    if !wanted.individual && !wanted.combined {
        (wanted.individual, wanted.combined) = (true, true);
    }
    Ok(options)
}

/// The value of the one option with a name, which upstream does not have.
fn long(word: &str, rest: &mut impl Iterator<Item = String>) -> Option<Result<String, Stop>> {
    match word.strip_prefix('-').unwrap_or(word).strip_prefix(ADDRESS_POOL)? {
        "" => Some(rest.next().ok_or_else(|| Stop::Bad(format!("-{ADDRESS_POOL} needs a value: -{ADDRESS_POOL}=26")))),
        value => value.strip_prefix('=').map(|size| Ok(size.to_owned())),
    }
}

fn pool_size(text: &str) -> Result<u8, Stop> {
    text.parse().map_err(|_| {
        Stop::Bad(format!(
            "-{ADDRESS_POOL}={text}: the value is no prefix length: make it longer than the lease's and at most \
             {LONGEST_PART}"
        ))
    })
}

impl Options {
    /// A word of option letters, the last of which may take a value.
    fn letters(&mut self, letters: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), Stop> {
        for (at, letter) in letters.char_indices() {
            let mut value = || {
                let attached = &letters[at + letter.len_utf8()..];
                let value = if attached.is_empty() { rest.next() } else { Some(attached.to_owned()) };
                value.ok_or_else(|| Stop::Bad(format!("-{letter} needs a value; see -h")))
            };
            match letter {
                'f' => self.flannel_env = value()?.into(),
                'd' => self.docker_env = value()?.into(),
                'k' => self.wanted.key = key(value()?)?,
                'i' => self.wanted.individual = true,
                'c' => self.wanted.combined = true,
                'm' => self.wanted.ip_masq = false,
                'h' | '?' => return Err(Stop::Help),
                other => return Err(Stop::Bad(format!("-{other} is no option; see -h"))),
            }
            if matches!(letter, 'f' | 'd' | 'k') {
                break;
            }
        }
        Ok(())
    }
}

fn key(name: String) -> Result<String, Stop> {
    if assignments::is_name(&name) {
        Ok(name)
    } else {
        Err(Stop::Bad(format!("-k {name:?} is no variable's name: take letters, digits and _, no digit first")))
    }
}

pub(super) fn usage(name: &str) -> String {
    format!(
        "Usage: {name} [-f FILE] [-d FILE] [-i] [-c] [-k NAME] [-m] [-{ADDRESS_POOL}=SIZE]\n\
         Writes Docker's daemon options for this host's flannel lease.\n\
         \x20 -f FILE   what flanneld has written ({})\n\
         \x20 -d FILE   what Docker's unit is to read ({DEFAULT_PATH})\n\
         \x20 -i        a variable for each option: DOCKER_OPT_BIP, DOCKER_OPT_MTU, ...\n\
         \x20 -c        one variable with all options; neither -i nor -c means both\n\
         \x20 -k NAME   the name of that variable (DOCKER_OPTS)\n\
         \x20 -m        leave --ip-masq out\n\
         \x20 -{ADDRESS_POOL}=SIZE\n\
         \x20           make Docker's networks of parts of the lease, /SIZE each; its own bridge gets the first\n",
        subnet_env::DEFAULT_PATH
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Stop> {
        read(line.split_whitespace().map(str::to_owned).collect())
    }

    fn says(line: &str) -> String {
        match parse(line) {
            Err(Stop::Bad(why)) => why,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn letters_stand_alone_or_together() {
        for line in
            ["-i -c -m -k KEY -f /a -d /b", "-icm -kKEY -f/a -d/b", "-icmkKEY -f /a -d /b", "-cimk KEY -f/a -d/b"]
        {
            let options = parse(line).unwrap();
            assert_eq!((options.flannel_env, options.docker_env), ("/a".into(), "/b".into()), "{line}");
            let wanted = Wanted { key: "KEY".into(), ip_masq: false, ..Wanted::default() };
            assert_eq!(options.wanted, wanted, "{line}");
        }
    }

    #[test]
    fn the_first_other_word_ends_them() {
        for line in ["-i", "-i x -c", "-i -- -c", "-i - -c"] {
            let wanted = parse(line).unwrap().wanted;
            assert!(wanted.individual && !wanted.combined, "{line}");
        }
        assert_eq!(parse("x -i").unwrap().wanted, Wanted::default());
    }

    #[test]
    fn the_pool_is_written_as_a_flag() {
        for line in ["-address-pool 26", "--address-pool 26", "-address-pool=26", "--address-pool=26 x"] {
            assert_eq!(parse(line).unwrap().wanted.address_pool, Some(26), "{line}");
        }
        assert_eq!(says("-address-pool"), "-address-pool needs a value: -address-pool=26");
        for bad in ["", "x", "-1", "256", "/26", "26.0"] {
            assert!(says(&format!("--address-pool={bad}")).starts_with(&format!("-address-pool={bad}: ")), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(says("-z"), "-z is no option; see -h");
        assert_eq!(says("-address-pools=26"), "-a is no option; see -h");
        assert_eq!(says("-i -k"), "-k needs a value; see -h");
        assert!(says("-k A-B").starts_with("-k \"A-B\" is no variable's name"));
        for line in ["-h", "-?", "-ih"] {
            assert_eq!(parse(line), Err(Stop::Help), "{line}");
        }
    }
}
