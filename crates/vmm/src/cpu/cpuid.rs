//! What CPUID tells the guest: what KVM can do, who made the processor, and how many there are.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::config::CpuModel;

/// Leaf 1 (Intel SDM, volume 2, CPUID; AMD64 manual, volume 3, appendix E).
const FEATURES: u32 = 1;
/// ECX: virtualization on Intel, deadline timer, and the mark of a hypervisor.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// EDX: several logical processors in the package.
const HTT: u32 = 1 << 28;
/// AMD's features; ECX: virtualization on AMD.
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const SVM: u32 = 1 << 2;

/// KVM's own features (Documentation/virt/kvm/x86/cpuid.rst); EAX: those that the guest asks for by
/// a hypercall, `KVM_FEATURE_PV_UNHALT`, `PV_SEND_IPI`, `PV_SCHED_YIELD` and
/// `HC_MAP_GPA_RANGE`.
const KVM_FEATURES: u32 = 0x4000_0001;
const HYPERCALLS: u32 = 1 << 7 | 1 << 11 | 1 << 13 | 1 << 16;

/// Family and model that each vendor's processors are shown as: a Skylake server and an EPYC
/// (Zen 2). With another vendor's numbers a kernel would look for features that are not there.
const INTEL_SIGNATURE: u32 = 0x0005_0654;
const AMD_SIGNATURE: u32 = 0x0083_0f10;

fn set_vendor(entry: &mut kvm_cpuid_entry2, name: &[u8; 12]) {
    let word = |at| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
    (entry.ebx, entry.edx, entry.ecx) = (word(0), word(4), word(8));
}

/// What one vCPU is shown, of what KVM supports.
pub(crate) fn of_vcpu(supported: &CpuId, model: CpuModel, index: u8, vcpus: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let maker = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0);
    let foreign = maker.is_some_and(|host| is_foreign(host, model));
    for entry in cpuid.as_mut_slice() {
        show_model(entry, model);
        // A guest makes hypercalls by its own vendor's instruction. On another's processor each is
        // an invalid one that KVM emulates, which takes long, and fails in the middle of a mend.
        if foreign && entry.function == KVM_FEATURES {
            entry.eax &= !HYPERCALLS;
        }
        show_place(entry, index, vcpus);
    }
    cpuid
}

/// The name and the family and model that the guest sees, if not the host's.
fn identity(model: CpuModel) -> Option<(&'static [u8; 12], u32)> {
    match model {
        CpuModel::Host => None,
        CpuModel::Intel => Some((b"GenuineIntel", INTEL_SIGNATURE)),
        CpuModel::Amd => Some((b"AuthenticAMD", AMD_SIGNATURE)),
    }
}

/// Whether the processor, which has this leaf 0, is another vendor's than the guest's.
fn is_foreign(host: &kvm_cpuid_entry2, model: CpuModel) -> bool {
    let mut shown = *host;
    identity(model).is_some_and(|(name, _)| {
        set_vendor(&mut shown, name);
        shown.ebx != host.ebx
    })
}

fn show_model(entry: &mut kvm_cpuid_entry2, model: CpuModel) {
    let Some((name, signature)) = identity(model) else {
        return;
    };
    match entry.function {
        0 => set_vendor(entry, name),
        FEATURES => entry.eax = signature,
        // Intel's processors leave both empty.
        0x8000_0000 if model == CpuModel::Amd => set_vendor(entry, name),
        0x8000_0000 => (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0),
        EXTENDED_FEATURES if model == CpuModel::Amd => entry.eax = signature,
        EXTENDED_FEATURES => entry.eax = 0,
        _ => {}
    }
}

/// One package with a core for each vCPU, one thread each; the local APIC's number is the vCPU's.
fn show_place(entry: &mut kvm_cpuid_entry2, index: u8, vcpus: u8) {
    let (id, count) = (u32::from(index), u32::from(vcpus));
    let core_bits = count.next_power_of_two().trailing_zeros();
    match (entry.function, entry.index) {
        (FEATURES, _) => {
            entry.ebx = entry.ebx & 0xffff | count << 16 | id << 24;
            // No virtualization inside: its state would have to be part of a reset.
            entry.ecx = entry.ecx & !VMX | TSC_DEADLINE | HYPERVISOR;
            entry.edx = if vcpus > 1 {
                entry.edx | HTT
            } else {
                entry.edx & !HTT
            };
        }
        // Caches, each of one core's; the number of cores in the package.
        (4, _) if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | (count - 1) << 26;
        }
        // Extended topology: threads, then cores, then the end.
        (0xb | 0x1f, 0) => (entry.eax, entry.ebx, entry.ecx) = (0, 1, 1 << 8),
        (0xb | 0x1f, 1) => (entry.eax, entry.ebx, entry.ecx) = (core_bits, count, 2 << 8 | 1),
        (0xb | 0x1f, level) => (entry.eax, entry.ebx, entry.ecx) = (0, 0, level),
        (EXTENDED_FEATURES, _) => entry.ecx &= !SVM,
        (0x8000_0008, _) => entry.ecx = core_bits << 12 | (count - 1),
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
    if matches!(entry.function, 0xb | 0x1f) {
        entry.edx = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vendor(entry: &kvm_cpuid_entry2) -> [u8; 12] {
        let mut name = [0; 12];
        for (bytes, word) in name
            .chunks_exact_mut(4)
            .zip([entry.ebx, entry.edx, entry.ecx])
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        name
    }

    fn supported() -> CpuId {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            ebx: 0xffff_ffff,
            ecx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..Default::default()
        };
        let leaves = [
            leaf(0, 0),
            leaf(1, 0),
            leaf(0xb, 0),
            leaf(0xb, 1),
            leaf(0x8000_0000, 0),
            leaf(0x8000_0001, 0),
            leaf(0x8000_0008, 0),
        ];
        CpuId::from_entries(&leaves).unwrap()
    }

    fn entry(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut entries = cpuid.as_slice().iter();
        *entries
            .find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_number_in_every_leaf_that_has_one() {
        let cpuid = of_vcpu(&supported(), CpuModel::Host, 3, 4);
        assert_eq!(entry(&cpuid, 1, 0).ebx >> 16, 0x0304);
        assert_eq!(entry(&cpuid, 0xb, 0).edx, 3);
        assert_eq!(entry(&cpuid, 0xb, 1).ebx, 4);
        assert_eq!(entry(&cpuid, 0xb, 1).eax, 2);
        assert_eq!(entry(&cpuid, 0x8000_0008, 0).ecx, 2 << 12 | 3);
    }

    #[test]
    fn a_guest_sees_a_hypervisor_and_cannot_be_one() {
        let cpuid = of_vcpu(&supported(), CpuModel::Host, 0, 1);
        assert_eq!(entry(&cpuid, 1, 0).ecx & (VMX | HYPERVISOR), HYPERVISOR);
        assert_eq!(entry(&cpuid, 0x8000_0001, 0).ecx & SVM, 0);
    }

    #[test]
    fn a_model_has_its_vendors_name_and_family() {
        let intel = of_vcpu(&supported(), CpuModel::Intel, 0, 1);
        assert_eq!(vendor(&entry(&intel, 0, 0)), *b"GenuineIntel");
        assert_eq!(entry(&intel, 1, 0).eax, INTEL_SIGNATURE);
        assert_eq!(entry(&intel, 0x8000_0000, 0).ebx, 0);
        let amd = of_vcpu(&supported(), CpuModel::Amd, 0, 1);
        assert_eq!(vendor(&entry(&amd, 0, 0)), *b"AuthenticAMD");
    }

    #[test]
    fn a_guest_of_another_vendors_makes_no_hypercalls() {
        let host = |name| {
            let mut vendor = kvm_cpuid_entry2::default();
            set_vendor(&mut vendor, name);
            let features = kvm_cpuid_entry2 {
                function: KVM_FEATURES,
                eax: u32::MAX,
                ..Default::default()
            };
            CpuId::from_entries(&[vendor, features]).unwrap()
        };
        let features =
            |host: &CpuId, model| entry(&of_vcpu(host, model, 0, 1), KVM_FEATURES, 0).eax;
        let amd = host(b"AuthenticAMD");
        assert_eq!(features(&amd, CpuModel::Intel), !HYPERCALLS);
        assert_eq!(features(&amd, CpuModel::Amd), u32::MAX);
        assert_eq!(features(&amd, CpuModel::Host), u32::MAX);
    }
}
