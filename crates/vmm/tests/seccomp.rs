//! What happens to a thread that asks for what it has no use for. Each test does it in a child of
//! its own, which runs the same test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use pagemend_vmm::seccomp::{Seccomp, Task, filter};

const CHILD: &str = "PAGEMEND_SECCOMP_TEST_CHILD";

/// Confines a thread, has it do `work`, and gives what became of the process.
fn confined(test: &str, task: Task, seccomp: Seccomp, work: fn()) -> Option<Output> {
    if std::env::var_os(CHILD).is_some() {
        let filter = filter(task, seccomp).unwrap();
        let thread = std::thread::spawn(move || {
            filter.apply().unwrap();
            work();
        });
        thread.join().unwrap();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1");
    Some(command.output().unwrap())
}

/// No thread of a machine connects to anything.
fn connect() {
    let _ = std::net::TcpStream::connect("127.0.0.1:9");
}

fn ends(test: &str, task: Task, work: fn(), call: i64) {
    let Some(output) = confined(test, task, Seccomp::On, work) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    let words = format!("the thread {} made system call {call},", task.name());
    assert!(text.contains(&words), "no {words:?} in {text}");
}

#[test]
fn a_vcpu_that_opens_a_connection_ends_the_process() {
    let test = "a_vcpu_that_opens_a_connection_ends_the_process";
    ends(test, Task::Vcpu, connect, libc::SYS_socket);
}

#[test]
fn the_api_may_open_files_and_make_none() {
    let test = "the_api_may_open_files_and_make_none";
    let work = || {
        let mut text = String::new();
        let mut file = std::fs::File::open("/proc/self/stat").unwrap();
        file.read_to_string(&mut text).unwrap();
        let _ = std::fs::File::create("/nowhere/at/all");
    };
    ends(test, Task::Api, work, libc::SYS_openat);
}

#[test]
fn no_thread_makes_memory_executable() {
    let test = "no_thread_makes_memory_executable";
    let work = || {
        let (read, execute) = (libc::PROT_READ, libc::PROT_EXEC);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping of its own, that nobody uses.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, read | execute, flags, -1, 0) };
    };
    ends(test, Task::Mender, work, libc::SYS_mmap);
}

#[test]
fn a_filter_that_only_logs_lets_everything_be_done() {
    let test = "a_filter_that_only_logs_lets_everything_be_done";
    let Some(output) = confined(test, Task::Events, Seccomp::Log, connect) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_task_may_wait_work_on_memory_write_and_end() {
    let test = "every_task_may_wait_work_on_memory_write_and_end";
    let child = || {
        for task in Task::ALL {
            let filter = filter(task, Seccomp::On).unwrap();
            let (sender, receiver) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                filter.apply().unwrap();
                let bytes: Vec<u8> = receiver.recv().unwrap();
                io::stderr().write_all(&bytes[..1]).unwrap();
            });
            sender.send(vec![b'.'; 4 << 20]).unwrap();
            thread.join().unwrap();
        }
    };
    // The thread that starts the others is not confined.
    let Some(output) = confined(test, Task::Main, Seccomp::Off, child) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}
