//! Payloads that mean harm, or are damaged: an error, and nothing else.

use std::fs;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pagemend::{MemoryKind, Pagemend, Policy};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use tempfile::{NamedTempFile, TempPath};

use super::*;
use crate::config::MemoryConfig;
use crate::memory::Blocks;

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 32 * MIB;

struct Machine {
    ram: Ram,
    _pagemend: Pagemend,
}

/// Memory without vCPUs. There is one in a process.
fn machine() -> MutexGuard<'static, Machine> {
    static MACHINE: OnceLock<Mutex<Machine>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let config = MemoryConfig {
            bytes: MEMORY,
            kind: MemoryKind::Shmem,
            policy: Policy::Mend,
            filling: pagemend::Filling::default(),
            heal: pagemend::Heal::Never,
        };
        let blocks = Blocks::new(&config).unwrap();
        let builder = blocks.describe(&config, Pagemend::builder()).unwrap();
        let pagemend = builder.start().unwrap();
        Mutex::new(Machine {
            ram: blocks.guarded(&pagemend),
            _pagemend: pagemend,
        })
    });
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file(bytes: &[u8]) -> TempPath {
    let file = NamedTempFile::new().unwrap().into_temp_path();
    fs::write(&file, bytes).unwrap();
    file
}

fn load_linux(kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<Entry, BootError> {
    load_linux_into(&machine().ram, kernel, initrd, cmdline)
}

fn load_linux_into(
    ram: &Ram,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
) -> Result<Entry, BootError> {
    let (kernel, initrd) = (file(kernel), initrd.map(file));
    let payload = Payload::Linux {
        kernel: kernel.to_path_buf(),
        initrd: initrd.as_ref().map(|path| path.to_path_buf()),
        cmdline: cmdline.to_owned(),
    };
    load(&payload, ram, 2, &[])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What the boot protocol wants of a kernel, and nothing behind it.
fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 8192];
    bytes[0x1f1] = 1; // setup_sects
    put(&mut bytes, 0x202, b"HdrS");
    put(&mut bytes, 0x206, &0x20f_u16.to_le_bytes()); // version
    bytes[0x211] = 1; // loadflags: loaded high
    put(&mut bytes, 0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    put(&mut bytes, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut bytes, 0x236, &1_u16.to_le_bytes()); // xloadflags: a 64-bit entry
    bytes
}

/// An ELF kernel of one segment, and a note.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    for (at, value) in [(16, 2_u16), (18, 62), (52, 64), (54, 56), (56, 2)] {
        put(&mut bytes, at, &value.to_le_bytes()); // type, machine, sizes, program headers
    }
    put(&mut bytes, 20, &1_u32.to_le_bytes());
    for (at, value) in [(24, 0x20_0000_u64), (32, 64)] {
        put(&mut bytes, at, &value.to_le_bytes()); // entry, program headers
    }
    for (header, kind, offset, len) in [(64, 1_u32, 0x1000_u64, 0x1000_u64), (120, 4, 0x200, 64)] {
        put(&mut bytes, header, &kind.to_le_bytes());
        for (at, value) in [(8, offset), (24, 0x20_0000), (32, len), (40, len), (48, 4)] {
            put(&mut bytes, header + at, &value.to_le_bytes());
        }
    }
    for (at, value) in [(0, 4_u32), (4, 4), (8, 18)] {
        put(&mut bytes, 0x200 + at, &value.to_le_bytes());
    }
    put(&mut bytes, 0x20c, b"Xen\0");
    bytes
}

/// A change of some bytes, with the values at which arithmetic goes wrong more often than chance
/// would have it.
fn change() -> impl Strategy<Value = (Index, Vec<u8>)> {
    let words = prop::sample::select(vec![
        0,
        1,
        0xfff,
        MEMORY,
        MEMORY - 1,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX,
        u64::MAX - 0xfff,
        1 << 63,
    ]);
    let words = prop_oneof![words, any::<u64>()].prop_map(|word| word.to_le_bytes());
    let len = prop::sample::select(vec![1_usize, 2, 4, 8]);
    let value = (words, len).prop_map(|(word, len)| word[..len].to_vec());
    (any::<Index>(), value)
}

/// The bytes of `valid` with some of the first `head` changed, perhaps cut off.
fn damaged(valid: Vec<u8>, head: usize) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(change(), 0..6);
    let cut = prop::option::weighted(0.2, any::<Index>());
    (changes, cut).prop_map(move |(changes, cut)| {
        let mut bytes = valid.clone();
        for (at, value) in changes {
            put(&mut bytes, at.index(head - value.len()), &value);
        }
        let len = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
        bytes.truncate(len);
        bytes
    })
}

/// What was loaded lies in guest memory.
fn is_inside(entry: &Entry) -> TestCaseResult {
    let mut params = vec![0; size_of::<linux_loader::bootparam::boot_params>()];
    machine()
        .ram
        .read(layout::BOOT_PARAMS, &mut params)
        .unwrap();
    let word = |at: usize| u32::from_le_bytes(params[at..at + 4].try_into().unwrap());
    let (image, size) = (u64::from(word(0x218)), u64::from(word(0x21c)));
    prop_assert!(
        image + size <= MEMORY,
        "initrd at {image:#x}, {size:#x} bytes"
    );
    prop_assert!(size == 0 || image >= layout::HIGH_MEMORY.get());
    prop_assert_eq!(entry.rsi, layout::BOOT_PARAMS.get());
    Ok(())
}

#[test]
fn what_is_damaged_below_was_good() {
    let entry = load_linux(&bzimage(), Some(&[1; 5000]), "console=ttyS0").unwrap();
    assert_eq!(entry.rip, Gpa::new(0x10_0200));
    is_inside(&entry).unwrap();
    let entry = load_linux(&elf(), None, "").unwrap();
    assert_eq!(entry.rip, Gpa::new(0x20_0000));
}

#[test]
fn an_initial_file_system_without_an_end_is_too_large() {
    let kernel = file(&bzimage());
    let payload = Payload::Linux {
        kernel: kernel.to_path_buf(),
        initrd: Some("/dev/zero".into()),
        cmdline: String::new(),
    };
    let error = load(&payload, &machine().ram, 1, &[]).unwrap_err();
    assert!(matches!(error, BootError::TooLarge { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_bzimage_is_loaded_into_guest_memory_or_is_an_error(
        kernel in damaged(bzimage(), 0x280),
        initrd in prop::option::of(prop::collection::vec(any::<u8>(), 0..20_000)),
    ) {
        if let Ok(entry) = load_linux(&kernel, initrd.as_deref(), "") {
            is_inside(&entry)?;
        }
    }

    #[test]
    fn a_damaged_elf_file_is_loaded_into_guest_memory_or_is_an_error(
        kernel in damaged(elf(), 0x240),
        initrd in prop::option::of(prop::collection::vec(any::<u8>(), 0..20_000)),
    ) {
        if let Ok(entry) = load_linux(&kernel, initrd.as_deref(), "") {
            is_inside(&entry)?;
        }
    }

    #[test]
    fn noise_is_no_kernel(kernel in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(load_linux(&kernel, None, "").is_err());
    }

    #[test]
    fn a_command_line_arrives_as_it_is_or_is_an_error(
        // Blanks around words, and two hyphens alone, are put in order on the way.
        words in "([!-,.-~]{1,20} ){0,10}[!-,.-~]{1,20}|\\PC{0,200}é",
        times in prop::sample::select(vec![1_usize, 1, 1, 800]),
    ) {
        let cmdline = vec![words.trim(); times].join(" ");
        // The other tests load into the same memory.
        let machine = machine();
        if load_linux_into(&machine.ram, &bzimage(), None, &cmdline).is_ok() {
            let mut seen = vec![0; cmdline.len() + 1];
            machine.ram.read(layout::CMDLINE, &mut seen).unwrap();
            prop_assert_eq!(seen.pop(), Some(0));
            prop_assert_eq!(String::from_utf8(seen).unwrap(), cmdline);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_initial_file_system_fits_or_is_too_large(
        len in prop_oneof![0..MEMORY as usize + 8192, (MEMORY - MIB - 16_384) as usize..MEMORY as usize],
        max in prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), 0..MEMORY as u32],
    ) {
        let mut kernel = bzimage();
        put(&mut kernel, 0x22c, &max.to_le_bytes());
        match load_linux(&kernel, Some(&vec![7; len]), "") {
            Ok(entry) => is_inside(&entry)?,
            Err(error) => prop_assert!(matches!(error, BootError::TooLarge { .. }), "{error}"),
        }
    }
}
