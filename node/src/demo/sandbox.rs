//! The place where the demonstration happens: namespaces of this process alone, made without any other program.
//!
//! ```text
//!   unshare(user, network, mount)  ->  uid_map, gid_map  ->  everything private  ->  an empty /run
//! ```
//!
//! The own user namespace makes us its root, which is all that devices, addresses and TUN ask for. A real root does
//! without it, since some systems forbid it. All of it is gone with the last process inside. namespaces(7),
//! user_namespaces(7).

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::fault::{Fault, StartError};

/// Where the parts and `pontoon status` find each other: the path of CONTRACT, on a file system of our own.
pub const RUN_DIR: &str = "/run/pontoon";

/// How we got in, which decides how others get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// In a user namespace of our own: no root needed.
    OwnUser,
    /// As the root that we were.
    Root,
}

/// Moves this process into namespaces of its own. To be called before it has a second thread.
pub fn enter() -> Result<Sandbox, Fault> {
    tun_may_be_opened()?;
    let (user, group) = (geteuid(), getegid());
    let world = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let sandbox = match user.is_root().then(|| unshare(world)) {
        Some(Ok(())) => Sandbox::Root,
        // A root without capabilities, as in many containers, is a user like others.
        Some(Err(_)) | None => {
            unshare(world | CloneFlags::CLONE_NEWUSER).map_err(|error| forbidden(error.into()))?;
            become_root(user.as_raw(), group.as_raw()).map_err(forbidden)?;
            Sandbox::OwnUser
        }
    };
    empty_run().map_err(forbidden)?;
    Ok(sandbox)
}

impl Sandbox {
    /// The start of a command line that runs something inside, with the namespaces of process `pid`.
    pub fn entrance(self, pid: u32) -> String {
        match self {
            Sandbox::OwnUser => format!("nsenter -t {pid} --user --net --mount --preserve-credentials"),
            Sandbox::Root => format!("nsenter -t {pid} --net --mount"),
        }
    }

    pub fn in_words(self) -> &'static str {
        match self {
            Sandbox::OwnUser => "nothing is kept, no root needed",
            Sandbox::Root => "nothing is kept",
        }
    }
}

fn tun_may_be_opened() -> Result<(), Fault> {
    match fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Fault::failed("the demo needs /dev/net/tun, which you may not open")
                .why(error)
                .attempt("sudo pontoon demo"))
        }
        Err(error) => Err(StartError::tun("tun0", error).fault()),
    }
}

/// Maps our user and group to root of the new namespace. Without the `deny` an ordinary user may map no group.
fn become_root(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn empty_run() -> io::Result<()> {
    let (none, root): (Option<&str>, &str) = (None, "/");
    mount(none, root, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=0755"))?;
    fs::create_dir(Path::new(RUN_DIR))
}

fn forbidden(error: io::Error) -> Fault {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => "user.max_user_namespaces allows no more of them".to_owned(),
        Some(Errno::EPERM | Errno::EACCES) => {
            "user namespaces are forbidden here, by a sysctl, a security module or a container's filter"
                .to_owned()
        }
        _ => error.to_string(),
    };
    let fault = Fault::failed("the demo may not make namespaces on this machine").why(why);
    if geteuid().is_root() {
        return fault.attempt("in a container: start it with --cap-add SYS_ADMIN --device /dev/net/tun");
    }
    fault.attempt("sudo pontoon demo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_names_the_way() {
        for (errno, why) in [(libc::EPERM, "forbidden"), (libc::ENOSPC, "max_user_namespaces")] {
            let fault = forbidden(io::Error::from_raw_os_error(errno));
            assert!(fault.why.as_deref().is_some_and(|text| text.contains(why)), "{fault}");
            assert_eq!(fault.tries.len(), 1);
        }
    }

    #[test]
    fn others_enter_by_the_namespaces_that_there_are() {
        assert!(Sandbox::OwnUser.entrance(7).starts_with("nsenter -t 7 --user"));
        assert!(!Sandbox::Root.entrance(7).contains("--user"));
    }
}
