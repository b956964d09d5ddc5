//! What is typed, on its way to the guest.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use pagemend_vmm::Vm;
use pagemend_vmm::seccomp::{self, Filter, SeccompError, Task};

/// Ctrl-A, which makes the next key one for us.
const ESCAPE: u8 = 0x01;
/// Pieces of input that wait for the guest. What comes when there are as many is dropped, as on a
/// serial line without flow control: the next key may be the one that ends it all.
const BACKLOG: usize = 1024;

/// Why nothing can be typed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsoleError {
    #[error("no thread for the console's input")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Passes stdin on to the guest's console, from now on. At a terminal Ctrl-A X switches the machine
/// off.
pub(super) fn listen(vm: &Arc<Vm>, at_terminal: bool) -> Result<(), ConsoleError> {
    let (pieces, waiting) = sync_channel(BACKLOG);
    let filter = || seccomp::filter(Task::Input, vm.config().seccomp);
    let (reading, typing) = (Arc::clone(vm), Arc::clone(vm));
    start("console", filter()?, move || {
        read(&reading, &pieces, at_terminal);
    })?;
    start("typist", filter()?, move || type_in(&typing, &waiting))
}

fn start(
    name: &str,
    filter: Filter,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), ConsoleError> {
    let thread = thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || match filter.apply() {
        Ok(()) => work(),
        Err(error) => anstream::eprintln!("pagemend run: {}", crate::chain(&error)),
    });
    started.map(drop).map_err(ConsoleError::Thread)
}

fn read(vm: &Vm, pieces: &SyncSender<Vec<u8>>, at_terminal: bool) {
    let mut bytes = [0; 256];
    let mut escape = Escape::default();
    while let Ok(len @ 1..) = io::stdin().lock().read(&mut bytes) {
        let piece = match at_terminal {
            true => escape.filter(&bytes[..len]),
            false => Some(bytes[..len].to_vec()),
        };
        match piece {
            // One that finds no room is dropped.
            Some(piece) if at_terminal => drop(pieces.try_send(piece)),
            // A file or a pipe can wait.
            Some(piece) => drop(pieces.send(piece)),
            None => return vm.shut_down(),
        }
    }
}

fn type_in(vm: &Vm, pieces: &Receiver<Vec<u8>>) {
    for piece in pieces {
        if vm.type_in(&piece).is_err() {
            return;
        }
    }
}

/// Keys with the ones taken out that are for us.
#[derive(Default)]
struct Escape {
    /// The last key was Ctrl-A.
    armed: bool,
}

impl Escape {
    /// What of `keys` is for the guest, or none where it is to end.
    fn filter(&mut self, keys: &[u8]) -> Option<Vec<u8>> {
        let mut passed = vec![];
        for &key in keys {
            match (self.armed, key) {
                (false, ESCAPE) => {
                    self.armed = true;
                    continue;
                }
                (true, b'x' | b'X') => return None,
                (true, ESCAPE) | (false, _) => passed.push(key),
                (true, _) => passed.extend([ESCAPE, key]),
            }
            self.armed = false;
        }
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_ends_it_and_every_other_key_is_the_guests() {
        let passed = |pieces: &[&[u8]]| -> Option<Vec<u8>> {
            let mut escape = Escape::default();
            pieces.iter().try_fold(vec![], |mut all, piece| {
                all.extend(escape.filter(piece)?);
                Some(all)
            })
        };
        assert_eq!(passed(&[b"ls\x03\x1a\n"]).unwrap(), b"ls\x03\x1a\n");
        assert_eq!(passed(&[b"a\x01x"]), None);
        assert_eq!(passed(&[b"a\x01", b"X"]), None);
        assert_eq!(passed(&[b"\x01\x01x"]).unwrap(), b"\x01x");
        assert_eq!(passed(&[b"\x01b", b"x"]).unwrap(), b"\x01bx");
    }
}
