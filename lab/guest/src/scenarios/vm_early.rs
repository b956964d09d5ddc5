//! A guest that meets an error before it has set up its machine checks: as a kernel does that is hit while it boots, held still at that point by being a program of a few instructions instead.

use crate::registry::Family;
use crate::scenarios::vm_errors::scenario;
use crate::trial::Trial;
use crate::vm::wish::{Backing, Model, Vmm, Wish};
use crate::vm::{Fate, Vm};
use anyhow::{Context, Result};
use pagemend_lab_protocol::walker::{Order, Use, Word};
use pagemend_lab_protocol::{Set, encode};
use std::fs;

inventory::submit! {
    Family(|| [Model::Amd, Model::Intel].map(|model| {
        let wish = Wish::new(Vmm::Pagemend, Backing::Huge2M, model, 1).late();
        let wish = Wish { kernel: IMAGE, ..wish };
        scenario("before-mce", wish, Set::All, ["before it has set up its machine checks, an error in", "is answered by a new start, after which its memory is whole"], run)
    }).into())
}

/// Where the guest's program is put.
const IMAGE: &str = "/tmp/before-mce.elf";
/// Where it is loaded.
const BASE: u32 = 0x20_0000;
/// The address that it touches.
const TOUCHED: u32 = 0x800_0000;

fn run(t: &mut Trial, wish: &Wish) -> Result<()> {
    fs::write(IMAGE, elf()).context("cannot write the guest's program")?;
    let mut vm = Vm::start(t, wish)?;
    vm.fail(Use::Walker, u64::from(TOUCHED) / 4096)?;
    let answer = vm.order(&Order::Sync)?;
    t.claim("the guest does not go on with what it cannot have read", !matches!(answer, Some(Word::Done { .. })));
    let fate = vm.gone(t, answer)?;
    t.claim("it is started again", matches!(fate, Fate::StartedAgain));
    let answer = vm.order(&Order::Sync)?;
    t.equal("after that its memory is whole", answer, Some(DONE));
    t.saw("vmm", wish.vmm.version()?);
    t.saw("errors", 1);
    t.saw("guest_alive", false);
    t.saw("lost_bytes", wish.memory);
    t.saw("healthy_bytes_lost", wish.memory - 4096);
    Ok(())
}

const DONE: Word = Word::Done { error: None };

/// A program that writes the address, greets as the walker does, and answers each order after having read the address. It never touches CR4, which a VMM hands over with CR4.MCE clear.
fn code() -> Vec<u8> {
    let hello = encode(&Word::Hello {
        kernel: "no kernel".into(),
        vendor: "some".into(),
        cpus: 1,
        owned: 0,
        troubles: Vec::new(),
    });
    let done = encode(&DONE);
    /// Bytes of instructions; the texts follow.
    const LEN: u32 = 0x42;
    let texts = BASE + HEADERS + LEN;
    let [address, first, first_len, second, second_len] = [
        TOUCHED,
        texts,
        hello.len() as u32,
        texts + hello.len() as u32,
        done.len() as u32,
    ]
    .map(u32::to_le_bytes);
    let code: [&[u8]; 18] = [
        &[0xbb], &address, // mov ebx, TOUCHED
        &[0x48, 0x89, 0x1b], // mov [rbx], rbx
        &[0xba, 0xf8, 0x02, 0, 0], // mov edx, 0x2f8
        &[0xbe], &first, // mov esi, the greeting
        &[0xb9], &first_len, // mov ecx, its length
        &[0xac, 0xee, 0xe2, 0xfc], // 1: lodsb; out dx, al; loop 1b
        &[0xba, 0xfd, 0x02, 0, 0, 0xec, 0xa8, 0x01, 0x74, 0xf6], // 2: mov edx, 0x2fd; in al, dx; test al, 1; jz 2b
        &[0xba, 0xf8, 0x02, 0, 0, 0xec], // mov edx, 0x2f8; in al, dx
        &[0x3c, 0x0a, 0x75, 0xec], // cmp al, 10; jne 2b
        &[0x48, 0x8b, 0x03], // mov rax, [rbx]
        &[0xbe], &second, // mov esi, the answer
        &[0xb9], &second_len, // mov ecx, its length
        &[0xac, 0xee, 0xe2, 0xfc, 0xeb, 0xd9], // 1: lodsb; out dx, al; loop 1b; jmp 2b
    ];
    let mut code = code.concat();
    assert_eq!(code.len(), LEN as usize, "the jumps are counted by hand");
    code.extend_from_slice(hello.as_bytes());
    code.extend_from_slice(done.as_bytes());
    code
}

/// Bytes of the headers of an ELF file with one segment.
const HEADERS: u32 = 64 + 56;

/// The program as a file that is loaded whole.
fn elf() -> Vec<u8> {
    let code = code();
    let (base, len) = (u64::from(BASE), u64::from(HEADERS) + code.len() as u64);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable for x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry, program headers, no section headers.
    for word in [base + u64::from(HEADERS), 64, 0] {
        file.extend(word.to_le_bytes());
    }
    // No flags; sizes and numbers of headers.
    file.extend([0; 4]);
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // Loaded, to be read, written and executed.
    for word in [1u32, 7] {
        file.extend(word.to_le_bytes());
    }
    for word in [0, base, base, len, len, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_follows_its_headers() {
        let file = elf();
        assert_eq!(&file[..4], b"\x7fELF");
        assert_eq!(file[HEADERS as usize..], code());
    }
}
