//! Whether a stock kernel could have run on this host at all.

use pagemend::probe::hardware_virtualization;

/// Why a guest could not go on, with the host's part in it where a stock kernel was asked for too
/// much of it.
pub(super) fn explain(reason: String, stock: bool) -> String {
    match stock && hardware_virtualization() == Some(false) {
        true => format!(
            "{reason}. The processor offers KVM no hardware virtualization here (no vmx or svm in \
             /proc/cpuinfo), and a KVM that does without runs no stock kernel. `cargo xtask lab vm` \
             runs this in an emulated machine that has it"
        ),
        false => reason,
    }
}
