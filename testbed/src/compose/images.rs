//! The images, where none can be pulled: bases out of Debian's packages, the program from this workspace.

use std::path::Path;
use std::process::Command;

use super::docker;
use crate::outcome::{Context, Result};
use crate::verify;
use crate::world::exec;
use crate::world::pontoon;
use crate::world::sandbox;

const BASE: &str = "pontoon/base";
const CLIENT_BASE: &str = "pontoon/client-base";
const SUITE: &str = "bookworm";
/// What the client's image has besides.
const CLIENT_PACKAGES: [&str; 5] = [
    "strongswan-charon",
    "strongswan-swanctl",
    "libcharon-extra-plugins",
    "libstrongswan-standard-plugins",
    "libstrongswan-extra-plugins",
];
/// What nobody reads in a container.
const NOT_NEEDED: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
];

/// Makes all images; the bases only once on a machine.
pub fn make() -> Result {
    if !exists(BASE) || !exists(CLIENT_BASE) {
        bases()?;
    }
    let context = tempfile::tempdir().context("temporary folder")?;
    let scripts = context.path().join("testbed/compose");
    std::fs::create_dir_all(&scripts).context("folder")?;
    for entry in std::fs::read_dir(verify::root().join("testbed/compose")).context("testbed/compose")? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        std::fs::copy(&path, scripts.join(name)).context(path.display())?;
    }
    let program = context.path().join("pontoon");
    std::fs::copy(pontoon::program()?, &program).context("the program")?;
    exec::run(Command::new("strip").arg(&program))?;
    let dockerfile = scripts.join("Dockerfile");
    for target in ["gateway", "client", "server"] {
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--target", target, "--tag", &format!("pontoon/{target}")]);
        for argument in
            [format!("BUILDER={BASE}"), format!("BASE={BASE}"), format!("CLIENT_BASE={CLIENT_BASE}")]
        {
            build.args(["--build-arg", &argument]);
        }
        // The builder that every engine has.
        build.env("DOCKER_BUILDKIT", "0");
        exec::run(build.arg("--file").arg(&dockerfile).arg(context.path()))?;
    }
    Ok(())
}

fn exists(image: &str) -> bool {
    docker(&["image", "inspect", image]).is_ok()
}

/// Two root file systems out of Debian's packages.
fn bases() -> Result {
    exec::require("debootstrap")?;
    sandbox::require_root()?;
    let folder = tempfile::tempdir().context("temporary folder")?;
    let root = folder.path();
    exec::run(Command::new("debootstrap").args(["--variant=minbase", "--include=busybox", SUITE]).arg(root))?;
    import(root, BASE)?;
    let mut install = Command::new("chroot");
    install.arg(root).args(["apt-get", "install", "--yes", "--no-install-recommends"]).args(CLIENT_PACKAGES);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    exec::run(Command::new("chroot").arg(root).args(["apt-get", "update"]))?;
    exec::run(&mut install)?;
    import(root, CLIENT_BASE)
}

fn import(root: &Path, image: &str) -> Result {
    let excluded = NOT_NEEDED.map(|path| format!("--exclude=./{path}/*"));
    let archive = tempfile::NamedTempFile::new().context("temporary file")?;
    exec::run(
        Command::new("tar")
            .args(excluded)
            .arg("--create")
            .arg("--file")
            .arg(archive.path())
            .arg("-C")
            .arg(root)
            .arg("."),
    )?;
    docker(&["import", &archive.path().to_string_lossy(), image]).map(drop)
}
