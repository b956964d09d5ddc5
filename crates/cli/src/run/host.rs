//! Whether a guest could have run on this host at all.

use pagemend_vmm::VmError;

/// What was asked of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// To run a stock kernel, and it could not go on.
    StockKernel,
    /// For KVM, and it is not there.
    Kvm,
    /// What any host can do.
    Little,
}

impl Asked {
    /// What a guest asks for that could not go on.
    pub(super) fn by_guest(stock: bool) -> Self {
        match stock {
            true => Self::StockKernel,
            false => Self::Little,
        }
    }

    /// What was asked for where there is no machine because of `error`.
    pub(super) fn by(error: &VmError) -> Self {
        match error {
            VmError::NoKvm(_) => Self::Kvm,
            _ => Self::Little,
        }
    }
}

/// The `reason`, with the host's part in it where it was `asked` for what it does not have:
/// `hardware` virtualization, as far as that is known.
pub(super) fn explain(reason: String, asked: Asked, hardware: Option<bool>) -> String {
    if asked == Asked::Little || hardware != Some(false) {
        return reason;
    }
    format!(
        "{reason}. The processor offers KVM no hardware virtualization here (no vmx or svm in \
         /proc/cpuinfo), and a KVM that does without runs no stock kernel. `cargo xtask lab vm` \
         runs this in an emulated machine that has it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str = "cargo xtask lab vm";

    fn explained(asked: Asked, hardware: Option<bool>) -> String {
        explain("it failed".to_owned(), asked, hardware)
    }

    #[test]
    fn a_host_without_hardware_virtualization_is_why_a_kernel_ends_or_kvm_is_not_there() {
        let no_kvm = VmError::NoKvm(vmm_sys_util::errno::Error::new(2));
        for asked in [Asked::by_guest(true), Asked::by(&no_kvm)] {
            let text = explained(asked, Some(false));
            assert!(text.starts_with("it failed. "), "{text}");
            assert!(text.contains(LAB), "{text}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_host_that_has_it_or_that_was_not_asked_for_it() {
        for hardware in [Some(true), None] {
            assert_eq!(explained(Asked::Kvm, hardware), "it failed");
        }
        for asked in [Asked::by_guest(false), Asked::by(&VmError::Ended)] {
            assert_eq!(explained(asked, Some(false)), "it failed");
        }
    }
}
