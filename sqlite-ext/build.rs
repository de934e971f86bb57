//! Keeps the C functions of a dependency out of the library's exports.
//!
//! object_store turns on crc-fast's C interface, whose functions rustc then exports from our library; SQLite loads
//! extensions for all the process to see. A version script that names them as local takes them out. Only LLD,
//! which rustc uses on x86-64 Linux, accepts a second script beside rustc's own; elsewhere they stay, and do
//! no harm. `tests/doors.rs` looks at what is exported.

use std::path::Path;

/// What crc-fast 1.10 exports after `crc_fast_`.
const HIDDEN: &str = "checksum checksum_combine checksum_combine_with_params checksum_file checksum_file_with_params \
    checksum_with_params clear_error crc32_iscsi crc32_iso_hdlc crc64_nvme digest_combine digest_finalize \
    digest_finalize_reset digest_free digest_get_amount digest_get_state digest_new digest_new_with_init_state \
    digest_new_with_params digest_reset digest_update error_message get_calculator_target get_custom_params \
    get_last_error get_version";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let other_linker = flags.contains("linker") || flags.contains("-fuse-ld");
    if variable("TARGET") != "x86_64-unknown-linux-gnu" || other_linker {
        return;
    }
    let script = Path::new(&variable("OUT_DIR")).join("hidden.map");
    let names: String = HIDDEN.split_whitespace().map(|name| format!("crc_fast_{name};")).collect();
    std::fs::write(&script, format!("{{ local: {names} }};\n")).expect("cargo's output folder can be written");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--version-script={}", script.display());
    // A name that is gone is no error; rustc asks for one.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--undefined-version");
}
