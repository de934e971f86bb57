//! What kind of file system a file lies on: SQLite's locks, and the memory that its WAL shares, hold on a disk of this
//! machine, and not everywhere else.
//!
//! Kinds are told by the numbers of Linux's `statfs`. What follows from one is the caller's business.

use std::path::Path;

/// Kinds that other machines may have mounted too, or that pass no locks on, by their number in `linux/magic.h` (the
/// last two: VirtualBox's and VMware's own).
const SHARED: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE (virtiofs, sshfs and others)"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x5346_414f, "AFS"),
    (0x786f_4256, "a shared folder of VirtualBox"),
    (0xbacb_acbc, "a shared folder of VMware"),
];

/// The kind of file system that `folder` lies on, where it is none of this machine's own disks. One that cannot be asked
/// says nothing.
pub(crate) fn shared(folder: &Path) -> Option<&'static str> {
    let number = rustix::fs::statfs(folder).ok()?.f_type as u32;
    SHARED.iter().find(|(kind, _)| *kind == number).map(|(_, name)| *name)
}
