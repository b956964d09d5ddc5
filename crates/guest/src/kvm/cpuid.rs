//! CPUID of a processor whose guest recovers from memory errors.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::x86::Vendor;
use crate::x86::bits::*;

/// The highest extended leaf is this leaf's EAX.
const EXTENDED: u32 = 0x8000_0000;
/// Extended features; EDX repeats some of leaf 1 on AMD (APM volume 3, appendix E).
const EXTENDED_FEATURES: u32 = 0x8000_0001;

/// There is no room for another leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CPUID is full: give the vCPU fewer leaves, or more room when asking KVM for them")]
pub struct CpuidFull;

/// Whose rules the guest will follow; `None` for a vendor on whose processors Linux does not
/// recover.
pub fn vendor(cpuid: &CpuId) -> Option<Vendor> {
    let leaf = cpuid.as_slice().iter().find(|leaf| leaf.function == 0)?;
    let name: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
        .iter()
        .flat_map(|register| register.to_le_bytes())
        .collect();
    match &name[..] {
        b"GenuineIntel" | b"  Shanghai  " | b"CentaurHauls" => Some(Vendor::Intel),
        b"AuthenticAMD" | b"HygonGenuine" => Some(Vendor::Amd),
        _ => None,
    }
}

/// Sets what a guest looks at before it recovers: the machine-check features, and on AMD overflow
/// recovery and SUCCOR, without which Linux panics at errors that it could survive
/// (`mce_severity_amd`). Takes scalable MCA away, whose registers KVM has not.
///
/// Intel's part is in MCG_CAP: [`mcg_cap`](super::mcg_cap).
pub fn let_recover(cpuid: &mut CpuId, vendor: Vendor) -> Result<(), CpuidFull> {
    leaf(cpuid, 1)?.edx |= CPUID_1_EDX_MCE | CPUID_1_EDX_MCA;
    if vendor == Vendor::Amd {
        leaf(cpuid, EXTENDED_FEATURES)?.edx |= CPUID_1_EDX_MCE | CPUID_1_EDX_MCA;
        let ras = leaf(cpuid, CPUID_AMD_RAS)?;
        ras.ebx |= CPUID_AMD_RAS_EBX_OVERFLOW_RECOV | CPUID_AMD_RAS_EBX_SUCCOR;
        ras.ebx &= !CPUID_AMD_RAS_EBX_SMCA;
        let highest = leaf(cpuid, EXTENDED)?;
        highest.eax = highest.eax.max(CPUID_AMD_RAS);
    }
    Ok(())
}

/// Whether a guest with this CPUID and MCG_CAP recovers from memory errors, as far as can be seen.
pub fn recovers(cpuid: &CpuId, mcg_cap: u64) -> bool {
    let has = |function, register: fn(&kvm_cpuid_entry2) -> u32, bits| {
        let mut leaves = cpuid.as_slice().iter();
        leaves.any(|leaf| leaf.function == function && register(leaf) & bits == bits)
    };
    has(1, |leaf| leaf.edx, CPUID_1_EDX_MCE | CPUID_1_EDX_MCA)
        && match vendor(cpuid) {
            Some(Vendor::Intel) => mcg_cap & MCG_SER_P != 0,
            Some(Vendor::Amd) => has(
                CPUID_AMD_RAS,
                |leaf| leaf.ebx,
                CPUID_AMD_RAS_EBX_OVERFLOW_RECOV | CPUID_AMD_RAS_EBX_SUCCOR,
            ),
            None => false,
        }
}

/// The leaf, which is added where it is not there.
fn leaf(cpuid: &mut CpuId, function: u32) -> Result<&mut kvm_cpuid_entry2, CpuidFull> {
    let is_it = |leaf: &kvm_cpuid_entry2| leaf.function == function;
    if !cpuid.as_slice().iter().any(is_it) {
        let empty = kvm_cpuid_entry2 {
            function,
            ..Default::default()
        };
        cpuid.push(empty).map_err(|_| CpuidFull)?;
    }
    let mut leaves = cpuid.as_mut_slice().iter_mut();
    Ok(leaves.find(|leaf| is_it(leaf)).expect("it was added"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8; 12]) -> CpuId {
        let register = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        let leaf = kvm_cpuid_entry2 {
            function: 0,
            ebx: register(0),
            edx: register(4),
            ecx: register(8),
            ..Default::default()
        };
        CpuId::from_entries(&[leaf]).unwrap()
    }

    #[test]
    fn a_guest_recovers_once_it_is_let() {
        for (name, expected) in [
            (b"AuthenticAMD", Vendor::Amd),
            (b"HygonGenuine", Vendor::Amd),
            (b"GenuineIntel", Vendor::Intel),
        ] {
            let mut cpuid = named(name);
            assert_eq!(vendor(&cpuid), Some(expected));
            assert!(!recovers(&cpuid, MCG_SER_P));
            let_recover(&mut cpuid, expected).unwrap();
            assert!(recovers(&cpuid, MCG_SER_P));
            assert_eq!(recovers(&cpuid, 0), expected == Vendor::Amd);
        }
        assert_eq!(vendor(&named(b"ARMARMARMARM")), None);
    }

    #[test]
    fn leaves_that_are_there_keep_their_other_bits() {
        let mut cpuid = named(b"AuthenticAMD");
        for (function, eax, ebx) in [
            (EXTENDED, 0x8000_0028, 0),
            (CPUID_AMD_RAS, 0, CPUID_AMD_RAS_EBX_SMCA | 1 << 4),
        ] {
            let leaf = kvm_cpuid_entry2 {
                function,
                eax,
                ebx,
                edx: 1 << 8,
                ..Default::default()
            };
            cpuid.push(leaf).unwrap();
        }
        let_recover(&mut cpuid, Vendor::Amd).unwrap();
        let ras = *leaf(&mut cpuid, CPUID_AMD_RAS).unwrap();
        assert_eq!((ras.ebx, ras.edx), (0b1_0011, 1 << 8));
        assert_eq!(leaf(&mut cpuid, EXTENDED).unwrap().eax, 0x8000_0028);
    }
}
