//! `pagemend run` and `pagemend inject` on this machine, with a flat guest that gives back what is
//! typed and switches itself off at a `q`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagemend::probe::Pool;
use pagemend::{PageSize, resize_pool};
use pagemend_vmm::api::Client;
use pagemend_vmm::guests::parrot;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn pagemend(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemend"));
    command.args(arguments.split_whitespace());
    command
}

/// The guest, and where its sockets and files go.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("guest"), parrot::code()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &str) -> Command {
        let mut command = pagemend("run --memory 16M");
        command.arg("--flat").arg(self.path("guest"));
        if !arguments.contains("--page-size") {
            command.args(["--page-size", "4k"]);
        }
        command.args(arguments.split_whitespace());
        command
    }

    /// A machine that is steered over its API, once that answers.
    fn start(&self, arguments: &str) -> Machine {
        let socket = self.path("api");
        let mut command = self.run(arguments);
        command.arg("--api").arg(&socket).args(["--console", "off"]);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        while Client::new(&socket).get("/api/v1/ping").is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            std::thread::yield_now();
        }
        Machine { child, socket }
    }
}

/// A machine, killed where a test leaves it.
struct Machine {
    child: Child,
    socket: PathBuf,
}

impl Machine {
    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    fn inject(&self, arguments: &str) -> Output {
        let mut command = pagemend("inject --vm");
        command.arg(&self.socket).args(arguments.split_whitespace());
        command.output().unwrap()
    }

    fn injected(&self, arguments: &str) -> Value {
        let output = self.inject(&format!("{arguments} --json"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn shut_down(&mut self) -> ExitStatus {
        self.client()
            .put("/api/v1/vm.shutdown", &Value::Null)
            .unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_is_typed_comes_back_and_the_guest_can_switch_itself_off() {
    let place = Place::new();
    let mut child = place
        .run("--json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\nq").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let (console, report) = text.split_once("\nq").unwrap();
    assert_eq!(console, "hello");
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["schema"], "pagemend.run/1");
    assert_eq!(
        (&report["end"], &report["lost_bytes"]),
        (&json!("off"), &json!(0))
    );
}

#[test]
fn a_machine_is_steered_over_its_socket_and_writes_its_events() {
    let place = Place::new();
    let events = place.path("events");
    let mut machine = place.start(&format!("--paused --events {}", events.display()));
    let phase =
        |machine: &Machine| machine.client().get("/api/v1/vm.info").unwrap()["phase"].clone();
    assert_eq!(phase(&machine), "paused");
    machine
        .client()
        .put("/api/v1/vm.resume", &Value::Null)
        .unwrap();
    assert_eq!(phase(&machine), "running");
    machine
        .client()
        .put("/api/v1/vm.reset", &Value::Null)
        .unwrap();
    let injected = machine.injected("--random --seed 1 --kind ao --method emulated --wait");
    assert_eq!(injected["outcome"]["lost_bytes"], 4096);
    assert_eq!(machine.shut_down().code(), Some(0));
    assert!(!machine.socket.exists());
    let events = lines(&events);
    assert!(
        events
            .iter()
            .all(|event| event["schema"] == "pagemend.vm-event/1")
    );
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(names[0], "resume");
    assert_eq!(names.last(), Some(&"shutdown"));
    let done = events
        .iter()
        .filter(|event| event["detail"]["step"] == "done");
    assert_eq!(done.count(), 1);
}

/// Huge pages that go with it.
struct Pages {
    added: u64,
    _turn: MutexGuard<'static, ()>,
}

impl Pages {
    /// `None` where only root could have them.
    fn more(pages: u64) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can have huge pages");
            return None;
        }
        let before = Pool::of(PageSize::SIZE_2M).unwrap().total;
        let total = resize_pool(PageSize::SIZE_2M, before + pages).unwrap();
        Some(Self {
            added: total - before,
            _turn: turn,
        })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let now = Pool::of(PageSize::SIZE_2M).unwrap().total;
        resize_pool(PageSize::SIZE_2M, now - self.added).unwrap();
    }
}

#[test]
fn huge_pages_are_mended_under_the_filters_with_errors_in_each_of_them() {
    let place = Place::new();
    let Some(_pages) = Pages::more(16) else {
        return;
    };
    let mut machine = place.start("--page-size 2M");
    for page in 1..8 {
        let gpa = page * 2 * MIB + page * 0x3000;
        let outcome = &machine.injected(&format!(
            "--gpa {gpa:#x} --kind ao --method emulated --wait"
        ))["outcome"];
        assert_eq!(outcome["done"]["action"], "mend", "{outcome}");
        assert_eq!(outcome["lost_bytes"], 4096);
    }
    // And again, in memory that is new by now.
    let gpa = 2 * MIB + 0x8000;
    let again = machine.injected(&format!("--gpa {gpa} --kind ao --method emulated --wait"));
    assert_eq!(again["outcome"]["lost_bytes"], 4096);
    let info = machine.client().get("/api/v1/vm.info").unwrap();
    assert_eq!(info["memory"]["lost_bytes"], 8 * 4096);
    assert_eq!(info["totals"]["mended"], 7);
    machine
        .client()
        .put("/api/v1/vm.reset", &Value::Null)
        .unwrap();
    let info = machine.client().get("/api/v1/vm.info").unwrap();
    assert_eq!(info["memory"]["lost_bytes"], 0);
    assert_eq!(machine.shut_down().code(), Some(0));
}

#[test]
fn an_injection_is_told_to_people_and_by_its_exit_code() {
    let place = Place::new();
    let machine = place.start("");
    let output = machine.inject("--gpa 0x400123 --kind ao --method emulated --wait");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in ["0x400000", "kind ao", "emulated", "record", "4 KiB"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let untouched = machine.inject("--gpa 0x500000 --kind ar --method emulated --wait 0");
    assert_eq!(untouched.status.code(), Some(1), "{untouched:?}");
    let twice = machine.inject("--gpa 0x400000 --kind ao --method emulated");
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("lost already"));
    for wrong in [
        "--kind ao --method emulated",
        "--gpa 1 --random --kind ao --method emulated",
        "--gpa 1 --seed 1 --kind ao --method emulated",
        "--gpa x --kind ao --method emulated",
        "--gpa 1 --kind ce --method emulated",
        "--gpa 1 --kind ao --method hammer",
    ] {
        assert_eq!(machine.inject(wrong).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn who_injects_where_no_machine_is_is_told_so() {
    let output = pagemend("inject --vm /nowhere/api --random --kind ao --method emulated");
    let output = { output }.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("/nowhere/api") && text.contains("--api"),
        "{text}"
    );
}

#[test]
fn a_socket_that_a_killed_machine_left_is_replaced_and_one_in_use_is_not() {
    let place = Place::new();
    let mut killed = place.start("");
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(killed.socket.exists());
    let machine = place.start("");
    let second = place
        .run("--console off")
        .arg("--api")
        .arg(&machine.socket)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another process answers"), "{text}");
}

#[test]
fn what_cannot_be_started_says_why() {
    let place = Place::new();
    fs::write(place.path("noise"), [7; 4096]).unwrap();
    let noise = place.path("noise").display().to_string();
    for (arguments, words) in [
        ("run".to_owned(), "--kernel"),
        (
            "run --kernel /nowhere --page-size 4k".to_owned(),
            "/nowhere cannot be read",
        ),
        (
            format!("run --kernel {noise} --page-size 4k"),
            "no bzImage and no ELF kernel",
        ),
        (
            format!("run --flat {noise} --kernel {noise}"),
            "cannot be used with",
        ),
        (format!("run --flat {noise} --paused"), "--api"),
        (
            format!("run --flat {noise} --page-size 4k --vcpus 9"),
            "1 to 8",
        ),
        (
            format!("run --flat {noise} --page-size 4k --seccomp maybe"),
            "on, log or off",
        ),
        (
            format!("run --flat {noise} --page-size 4k --events /nowhere/e"),
            "/nowhere/e",
        ),
        (
            format!("run --flat {noise} --page-size 4k --api /nowhere/a"),
            "/nowhere/a",
        ),
    ] {
        let output = pagemend(&arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

/// A terminal with a machine's console in it.
struct Terminal {
    ours: File,
    before: Termios,
    child: Child,
}

impl Terminal {
    fn start(place: &Place) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, vec![]).unwrap().into_string().unwrap();
        let theirs = || {
            let file = File::options().read(true).write(true).open(&name).unwrap();
            Stdio::from(OwnedFd::from(file))
        };
        let before = tcgetattr(&ours).unwrap();
        let mut command = place.run("");
        command.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = command.spawn().unwrap();
        // Here, and not in the command, it would stay open and have no end.
        drop(command);
        let mut terminal = Self {
            ours: ours.into(),
            before,
            child,
        };
        // The terminal itself would give it back as well, before it is the guest's.
        terminal.read_until(b"Ctrl-A X switches the machine off");
        terminal.press(b"x");
        terminal
    }

    /// Presses a key, and waits until the guest has given it back.
    fn press(&mut self, key: &[u8]) {
        self.ours.write_all(key).unwrap();
        self.read_until(key);
    }

    fn read_until(&mut self, last: &[u8]) {
        let mut seen = vec![];
        while !seen.ends_with(last) {
            let mut byte = [0];
            self.ours.read_exact(&mut byte).unwrap();
            seen.extend(byte);
        }
    }

    /// Reads on until nobody has the terminal open any more.
    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        while matches!(self.ours.read(&mut [0; 64]), Ok(1..)) {}
        status
    }

    fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.ours).unwrap();
        now.local_modes == self.before.local_modes
            && now.input_modes == self.before.input_modes
            && now.output_modes == self.before.output_modes
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }
}

#[test]
fn every_key_is_the_guests_until_ctrl_a_x_and_the_terminal_is_put_back() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place);
    let raw = tcgetattr(&terminal.ours).unwrap();
    assert!(
        !raw.local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    );
    // Ctrl-C and Ctrl-Z.
    terminal.press(b"\x03");
    terminal.press(b"\x1a");
    terminal.ours.write_all(b"\x01x").unwrap();
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(terminal.is_as_before());
}

#[test]
fn signals_that_ask_for_the_end_switch_the_machine_off_and_the_terminal_is_put_back() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Place::new();
        let mut terminal = Terminal::start(&place);
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(0), "{signal:?}");
        assert!(terminal.is_as_before(), "{signal:?}");
    }
}

#[test]
fn a_terminal_is_put_back_even_if_the_machine_is_killed() {
    for signal in [Signal::KILL, Signal::ABORT, Signal::SYS] {
        let place = Place::new();
        let mut terminal = Terminal::start(&place);
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), None, "{signal:?}");
        assert!(terminal.is_as_before(), "{signal:?}");
    }
}
