//! A process of a host, as others may find it in the store: whether it still runs is known on its own host, nowhere else.
//!
//! A number alone says nothing: numbers are used again, and those of two containers or of two boots are strangers. What
//! cannot be found out is never taken for dead.

use std::fmt;
use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The name of its host.
    host: String,
    /// The kernel that it runs on, from boot to shutdown.
    boot: String,
    /// The namespace in which its number means something.
    pids: String,
    /// Its number there.
    pid: i32,
    /// When it was started, in clock ticks after the boot.
    start: u64,
}

impl Process {
    /// This one; `None` where `/proc` does not show it as it sees itself.
    pub fn current() -> Option<Process> {
        let pid = i32::try_from(std::process::id()).ok()?;
        // In another namespace than that of `/proc` it has another number there.
        if fs::read_link("/proc/self").ok()?.to_str()?.parse() != Ok(pid) {
            return None;
        }
        let (_, start) = stat(pid)?;
        Some(Process { host: host(), boot: boot()?, pids: namespace()?, pid, start })
    }

    /// It ran on this host, and has ended. False as well where that cannot be known from here.
    pub fn has_died(&self) -> bool {
        let Some(here) = Process::current() else { return false };
        let is_of_here = (&self.host, &self.boot, &self.pids) == (&here.host, &here.boot, &here.pids);
        if !is_of_here || self.pid <= 0 {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // Somebody has this number: another one, or its remains that nobody has collected.
            _ => stat(self.pid).is_some_and(|(state, start)| start != self.start || matches!(state, 'Z' | 'X')),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.host, self.pid)
    }
}

/// The name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn namespace() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned())
}

/// State and start time of a process (proc(5), `/proc/pid/stat`: fields 3 and 22); its name may hold anything.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(text.get(end + 1..)?).ok()?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_what_is_known_to_have_ended_is_dead() {
        let current = Process::current().expect("/proc");
        assert!(!current.has_died());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let (_, start) = stat(pid).unwrap();
        let other = Process { pid, start, ..current.clone() };
        assert!(!other.has_died());
        assert!(Process { start: start + 1, ..other.clone() }.has_died(), "its number was given to another one");
        child.kill().unwrap();
        while stat(pid).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        assert!(other.has_died(), "it was not collected yet");
        child.wait().unwrap();
        assert!(other.has_died());
        for stranger in [
            Process { boot: "another".into(), ..other.clone() },
            Process { host: "another".into(), ..other.clone() },
            Process { pids: "pid:[1]".into(), ..other.clone() },
            Process { pid: 0, ..other.clone() },
            Process { pid: -1, ..other },
        ] {
            assert!(!stranger.has_died(), "{stranger:?}");
        }
    }
}
