//! A machine with a flat guest that lives until it is told otherwise, and its API.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pagemend::probe::Pool;
use pagemend::{MemoryKind, PageSize, Policy, resize_pool};
use pagemend_vmm::api::{Api, ApiSocket, Client};
use pagemend_vmm::guests::parrot;
use pagemend_vmm::seccomp::Seccomp;
use pagemend_vmm::{
    Console, CpuModel, End, MemoryConfig, Notify, Payload, Untold, Vm, VmConfig, VmError,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::document::Document;

pub(crate) const MIB: u64 = 1 << 20;
/// Longer than anything takes here, and not forever.
const PATIENCE: Duration = Duration::from_secs(60);

/// One machine a process.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Machine {
    pub(crate) vm: Arc<Vm>,
    pub(crate) document: Document,
    pub(crate) path: PathBuf,
    api: Option<Api>,
    owner: Option<JoinHandle<Result<End, VmError>>>,
    _directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Option<Value>,
}

impl Machine {
    pub(crate) fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self::start_on(MemoryKind::Shmem, 64 * MIB, turn)
    }

    /// On one page of 1 GiB; none where the pool has none and cannot be grown.
    pub(crate) fn start_on_a_gigantic_page() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = Pool::of(PageSize::SIZE_1G)?;
        let missing = u64::from(pool.spare() == 0);
        let got = resize_pool(PageSize::SIZE_1G, pool.total + missing);
        if got.ok() != Some(pool.total + missing) {
            return None;
        }
        let kind = MemoryKind::Hugetlb(PageSize::SIZE_1G);
        Some(Self::start_on(kind, 1024 * MIB, turn))
    }

    fn start_on(kind: MemoryKind, bytes: u64, turn: MutexGuard<'static, ()>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let vm = Vm::new(VmConfig {
            memory: MemoryConfig {
                bytes,
                kind,
                policy: Policy::Mend,
                filling: pagemend::Filling::default(),
                heal: pagemend::Heal::Never,
            },
            vcpus: 2,
            cpu: CpuModel::Host,
            payload: Payload::Flat(parrot::code()),
            console: Console::Off,
            channel: None,
            untold: Untold::Stop,
            notify: Notify::Auto,
            early: true,
            seccomp: Seccomp::On,
        });
        let vm = Arc::new(vm.unwrap());
        let socket = ApiSocket::bind(&path).unwrap();
        let api = Api::serve(socket, Arc::clone(&vm)).unwrap();
        vm.resume().unwrap();
        let steered = Arc::clone(&vm);
        Self {
            document: Document::read(),
            api: Some(api),
            owner: Some(thread::spawn(move || steered.run_to_the_end())),
            vm,
            path,
            _directory: directory,
            _turn: turn,
        }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.path)
    }

    /// Asks, and holds the answer against the document.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        );
        let answer = self.say(request.as_bytes());
        let content_type = answer.header("content-type");
        self.document.check_answer(
            method,
            path,
            answer.status,
            content_type.as_deref(),
            answer.body.as_ref(),
        );
        answer
    }

    /// Sends `bytes`, and reads what comes until the end.
    pub(crate) fn say(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Answer::parse(&text)
    }

    /// Waits for the machine's end.
    pub(crate) fn end(&mut self) -> End {
        self.owner.take().unwrap().join().unwrap().unwrap()
    }

    /// The machine answers, as if nothing had been.
    pub(crate) fn is_well(&self) {
        assert_eq!(self.ask("GET", "/api/v1/ping", "").status, 200);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.api = None;
        if let Some(owner) = self.owner.take() {
            self.vm.shut_down();
            // What it found is the test's business, which has failed by now.
            let _ = owner.join();
        }
    }
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| {
            panic!("no end of a head in {text:?}");
        });
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_owned(),
            body: (!body.is_empty()).then(|| serde_json::from_str(body).unwrap()),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (this, value) = line.split_once(": ")?;
            this.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }

    pub(crate) fn error(&self) -> &str {
        self.body.as_ref().unwrap()["error"].as_str().unwrap()
    }
}
