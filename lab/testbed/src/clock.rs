//! A jump of the boot clock for one running process, as when its host has slept: the monotonic clock stops
//! meanwhile, and timers of the process with it.
//!
//! The kernel has no call that sets this clock. But each time namespace has its own, and a process with one thread can be
//! moved into another one by a call of its own; like a debugger, we have it make that call.

use std::process::Command;
use std::time::Duration;

use crate::machine::only_child;
use crate::{Process, Result, eventually};

/// Threads that did something in passing are gone after this time.
const ALONE: Duration = Duration::from_secs(20);

impl Process {
    /// Lets its boot clock jump ahead. It must have one thread only.
    pub fn jump_boot_clock(&self, ahead: Duration, log: &std::path::Path) -> Result<()> {
        let mut command = Command::new("unshare");
        command.args([
            "--time",
            "--boottime",
            &ahead.as_secs().to_string(),
            "--fork",
            "--kill-child",
            "sleep",
            "infinity",
        ]);
        let holder = Self::start("the other boot clock", command, log)?;
        let inside = eventually("a process of the other boot clock", crate::SOON, || only_child(holder.pid()))?;
        let namespace = format!("/proc/{}/ns/time", inside.as_raw_pid());
        eventually("the boot clock jumps", ALONE, || self.traced(|pid| call::enter(pid, &namespace)))
    }
}

#[cfg(target_arch = "x86_64")]
mod call {
    use std::ffi::{c_long, c_void};

    use nix::errno::Errno;
    use nix::libc::{SYS_close, SYS_openat, SYS_setns, user_regs_struct};
    use nix::sys::ptrace;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use crate::{Context as _, Error, Result};

    /// `syscall`, as encoded in the program's text.
    const INSTRUCTION: u64 = 0x050f;
    const LENGTH: u64 = 2;
    const AT_FDCWD: i64 = -100;
    const CLONE_NEWTIME: i64 = 0x80;
    /// Below what a function may use beyond its stack's end.
    const SCRATCH: u64 = 512;

    /// Has the process enter the time namespace of this path.
    pub(super) fn enter(pid: u32, namespace: &str) -> Result<()> {
        let pid = Pid::from_raw(pid.cast_signed());
        ptrace::attach(pid).context(|| format!("attaching to {pid}"))?;
        let done = stopped(pid, Signal::SIGSTOP).and_then(|()| {
            let before = ptrace::getregs(pid).context(|| "registers".to_owned())?;
            let done = make_calls(pid, &before, namespace);
            ptrace::setregs(pid, before).context(|| "registers".to_owned())?;
            done
        });
        ptrace::detach(pid, None).context(|| format!("detaching from {pid}"))?;
        done
    }

    fn make_calls(pid: Pid, before: &user_regs_struct, namespace: &str) -> Result<()> {
        let at = before.rip.wrapping_sub(LENGTH);
        let text = ptrace::read(pid, address(at)).context(|| "the program's text".to_owned())?;
        if text.cast_unsigned() & 0xffff != INSTRUCTION {
            return Err(Error::new("the process is not waiting in a call"));
        }
        let path = (before.rsp - SCRATCH) & !7;
        let mut bytes = namespace.as_bytes().to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        for (word, place) in bytes.chunks_exact(8).zip((path..).step_by(8)) {
            let word = c_long::from_ne_bytes(word.try_into().unwrap_or_default());
            ptrace::write(pid, address(place), word).context(|| "the stack".to_owned())?;
        }
        let call = |number: c_long, arguments: [i64; 3]| -> Result<i64> {
            let [rdi, rsi, rdx] = arguments.map(i64::cast_unsigned);
            let registers =
                user_regs_struct { rip: at, rax: number.cast_unsigned(), orig_rax: u64::MAX, rdi, rsi, rdx, ..*before };
            ptrace::setregs(pid, registers).context(|| "registers".to_owned())?;
            ptrace::step(pid, None).context(|| "one step".to_owned())?;
            stopped(pid, Signal::SIGTRAP)?;
            let result = ptrace::getregs(pid).context(|| "registers".to_owned())?.rax.cast_signed();
            if result < 0 {
                let errno = Errno::from_raw(i32::try_from(-result).unwrap_or(0));
                return Err(Error::new(format!("call {number} of the process: {errno}")));
            }
            Ok(result)
        };
        let file = call(SYS_openat, [AT_FDCWD, path.cast_signed(), 0])?;
        let entered = call(SYS_setns, [file, CLONE_NEWTIME, 0]);
        call(SYS_close, [file, 0, 0])?;
        entered.map(drop)
    }

    fn stopped(pid: Pid, wanted: Signal) -> Result<()> {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).context(|| format!("waiting for {pid}"))? {
            WaitStatus::Stopped(_, signal) if signal == wanted => Ok(()),
            other => Err(Error::new(format!("{other:?} instead of {wanted}"))),
        }
    }

    fn address(at: u64) -> *mut c_void {
        std::ptr::without_provenance_mut(usize::try_from(at).unwrap_or(0))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod call {
    use crate::{Error, Result};

    pub(super) fn enter(_: u32, _: &str) -> Result<()> {
        Err(Error::new("a process's boot clock can be moved on x86_64 only"))
    }
}
