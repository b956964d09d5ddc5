//! The answer to the one question that everything else leads to: can this host mend?

use pagemend_core::address::PageSize;
use serde::Serialize;

use super::Host;
use crate::abi::{UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_POISON};

/// Whether a mend is possible, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether a mend is possible in some form.
    pub can_mend: bool,
    /// The forms; empty where none is.
    pub forms: Vec<Form>,
}

/// One kind of guest memory that can be mended here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Form {
    /// The kind, in the words of design and documentation: `hugetlb 2 MiB, shared`.
    pub backing: String,
    /// Which errors.
    pub errors: Errors,
    /// How it is done.
    pub how: String,
    /// Why real errors are out; `None` where they are not.
    pub limit: Option<&'static str>,
}

/// Which errors can be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Errors {
    /// The hardware's, and emulated ones.
    Real,
    /// Emulated ones only.
    Emulated,
}

impl Verdict {
    /// Judges a host.
    pub fn of(host: &Host) -> Self {
        let can_mend = host.can_mend();
        Self {
            can_mend,
            forms: if can_mend { forms(host) } else { Vec::new() },
        }
    }
}

impl Host {
    /// Whether there is new memory to fill (a memfd), a way to let the guest see it page by page
    /// (minor faults on shmem), and one to keep it off the lost frames (poison).
    fn can_mend(&self) -> bool {
        self.calls.memory.memfd.works()
            && self
                .userfaultfd_features()
                .has(UFFD_FEATURE_POISON | UFFD_FEATURE_MINOR_SHMEM)
    }

    /// Why the hardware's errors do not reach a process that survives them.
    pub(super) fn no_real_errors(&self) -> Option<&'static str> {
        match &self.files.kernel.memory_failure {
            Some(built) if !built.built_in => Some("kernel without CONFIG_MEMORY_FAILURE"),
            None => Some("unknown whether the kernel has CONFIG_MEMORY_FAILURE"),
            Some(_) if self.files.sysctls.memory_failure_recovery == Some(0) => {
                Some("vm.memory_failure_recovery is 0: the kernel panics")
            }
            Some(_) => None,
        }
    }

    /// Why the healthy bytes of a poisoned hugetlb page cannot be had.
    fn no_salvage(&self) -> Option<&'static str> {
        match self.files.kernel.salvages_hugetlb() {
            Some(true) => None,
            Some(false) => Some("kernel older than 6.6 cannot read past poison"),
            None => Some("unknown whether the kernel can read past poison"),
        }
    }
}

fn forms(host: &Host) -> Vec<Form> {
    let form = |backing: String, how: String, limit: Option<&'static str>| Form {
        backing,
        errors: match limit {
            None => Errors::Real,
            Some(_) => Errors::Emulated,
        },
        how,
        limit,
    };
    let memory = &host.calls.memory;
    let keeps = memory.keep_ue_mapped.works();
    let hugetlb_limit = host
        .no_real_errors()
        .or_else(|| host.no_salvage().filter(|_| !keeps));
    let pools = host
        .files
        .hugetlb
        .iter()
        .filter(|pool| memory.memfd_hugetlb.works() && pool.is_usable());
    let mut forms: Vec<_> = pools
        .map(|pool| {
            let size = pool.page_size;
            let how = if keeps {
                format!("the page stays mapped, {} are lost", PageSize::SIZE_4K)
            } else {
                format!("new memory is swapped in, {} are lost", PageSize::SIZE_4K)
            };
            form(format!("hugetlb {size}, shared"), how, hugetlb_limit)
        })
        .collect();
    let huge = match host.files.thp.size {
        Some(size) => format!("{} and THP of {size}", PageSize::SIZE_4K),
        None => PageSize::SIZE_4K.to_string(),
    };
    for kind in ["shmem", "anonymous"] {
        forms.push(form(
            format!("{kind} {huge}"),
            format!("the kernel takes no more than {}", PageSize::SIZE_4K),
            host.no_real_errors(),
        ));
    }
    forms
}
