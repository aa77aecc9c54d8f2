# shellcheck shell=bash
# Shared by every script in ci/: the repository's root, progress output, running long commands.
# Source it first: `. "$(dirname "$0")/lib.sh"`. The working directory is the repository's root afterwards.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
LOGS=$ROOT/target/logs
IMAGES=$ROOT/target/images
mkdir -p "$LOGS" "$IMAGES"

# One clock for a script and the scripts it runs with `sub`.
SECONDS=${FLANNEL_LAB_ELAPSED:-0}
sub() { FLANNEL_LAB_ELAPSED=$SECONDS "$@"; }

# One line of progress, with the seconds since the first script started.
say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

# The last line of a failure: which object, what is wrong, what to do.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "$(basename "$0") must run as root: $1 (try: sudo $0)"
}

# programs_and_images: what the lab needs. The images that do not contain our programs are built while these compile.
programs_and_images() {
  local other
  sub ci/images flannel-lab-etcd flannel-lab-host busybox > "$LOGS/images.log" 2>&1 &
  other=$!
  # shellcheck disable=SC2064
  trap "kill $other 2> /dev/null || true; exit 130" INT TERM
  if ! sub ci/build --profile lab; then
    kill "$other" 2> /dev/null || true
    exit 1
  fi
  if ! wait "$other"; then
    cat "$LOGS/images.log" >&2
    exit 1
  fi
  trap - INT TERM
  sub ci/images
}

need_nextest() {
  cargo nextest --version > /dev/null 2>&1 || die "cargo-nextest is missing: run ci/setup"
}

# The last line of a log that is not empty, cut to a terminal's width.
last_line() { tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c1-100 || true; }

# quietly NAME COMMAND...: runs the command with its output in target/logs/NAME.log and shows progress: on a terminal one
# line that is rewritten, elsewhere a line every two seconds if the log has grown. If the command fails, prints the end of
# the log and returns the command's exit code.
quietly() {
  local name=$1 log=$LOGS/$1.log start=$SECONDS shown='' line pid rc=0
  shift
  "$@" > "$log" 2>&1 < /dev/null &
  pid=$!
  # An interrupted script takes the command down with it.
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null || true; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    # Waits until the command ends, at most two seconds.
    timeout 2 tail --pid="$pid" -f /dev/null 2>/dev/null || true
    line=$(last_line "$log")
    if [ -t 1 ]; then
      printf '\r\033[K[%4ds] %s: %s' "$SECONDS" "$name" "$line"
    elif [ "$line" != "$shown" ] && kill -0 "$pid" 2>/dev/null; then
      say "  $name: $line"
      shown=$line
    fi
  done
  wait "$pid" || rc=$?
  trap - INT TERM
  if [ -t 1 ]; then printf '\r\033[K'; fi
  if [ "$rc" != 0 ]; then
    tail -n 40 "$log" >&2
    printf 'error: %s failed with exit code %s after %s s; full log: %s\n' "$name" "$rc" "$((SECONDS - start))" "$log" >&2
  fi
  return "$rc"
}

have() { command -v "$1" > /dev/null 2>&1; }

# until_true SECONDS COMMAND...: repeats the command until it succeeds; fails when the time is up.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# debian_mirror SUFFIX: the mirror this machine's apt uses, from apt's own lists. SUFFIX is that of the suite: '' for the
# main archive, '-security' for the security archive.
debian_mirror() {
  # shellcheck disable=SC2016 # apt fills these in, not the shell
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN) $(IDENTIFIER)' \
    | awk -v suffix="$1" '$3 == "main" && $4 == "Debian" && $5 == "Packages" {
        security = ($2 ~ /-security$/); other = ($2 ~ /-(updates|backports|proposed-updates|debug)/)
        if (!other && security == (suffix == "-security")) { print $1; exit } }'
}
