//! How a machine is put together: the parts in the order in which they need each other, and its
//! threads last.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use pagemend::Pagemend;

use super::{Phase, Vm, VmError};
use crate::acpi;
use crate::boot::{self, BootError};
use crate::chipset::Chipset;
use crate::config::{Console, Payload, VmConfig};
use crate::control::Gate;
use crate::cpu::cpuid;
use crate::devices::Ports;
use crate::devices::serial::SerialPort;
use crate::events::Hub;
use crate::kick::Bell;
use crate::memory::Blocks;
use crate::seccomp::{self, Task};
use crate::tell::Told;
use crate::vcpu::{Surroundings, Vcpu};

impl Vm {
    pub(super) fn build(config: VmConfig, blocks: &Blocks) -> Result<Self, VmError> {
        let kvm = Kvm::new().map_err(VmError::NoKvm)?;
        let hub = Hub::default();
        let refused = |what| move |source| VmError::Kvm { what, source };
        let supported = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("to tell what its vCPUs can do"))?;
        let chipset = Chipset::new(&kvm)?;
        let first = cpuid::of_vcpu(&supported, config.cpu, 0, config.vcpus);
        let told = Told::new(&kvm, chipset.vm(), &first, config.vcpus, config.notify)?;
        let bell =
            Bell::new(seccomp::filter(Task::Bell, config.seccomp)?).map_err(VmError::Thread)?;
        let pagemend = {
            let listener = told.listener(hub.clone(), bell.clone());
            let builder = blocks
                .describe(&config.memory, Pagemend::builder())?
                .early_kill(config.early)
                .listen("guest", listener);
            let filter = seccomp::filter(Task::Mender, config.seccomp)?;
            let builder = builder.on_thread(move || filter.apply().map_err(io::Error::other));
            Arc::new(builder.start()?)
        };
        let ram = blocks.guarded(&pagemend);
        ram.plug_in(chipset.vm())?;
        let ports = Ports {
            console: open_console(&config.console)?,
            channel: open_channel(&config)?,
            hub: hub.clone(),
            told: told.clone(),
        };
        chipset.wire(&ports)?;
        if let Payload::Linux { .. } = config.payload {
            let place = acpi::source(ram.firmware());
            let offered = told.offer_records(ram.low().clone(), place);
            offered.map_err(BootError::Memory)?;
        }
        let entry = boot::load(&config.payload, &ram, config.vcpus, &[])?;

        let (owner, reports) = channel();
        let gate = Arc::new(Gate::new());
        let surroundings = Surroundings {
            gate: Arc::clone(&gate),
            bell: bell.clone(),
            ports: ports.clone(),
            hub: hub.clone(),
            pagemend: Arc::clone(&pagemend),
            reports: owner.clone(),
            entry,
            told: told.clone(),
            untold: config.untold,
            filter: Arc::new(seccomp::filter(Task::Vcpu, config.seccomp)?),
        };
        let mut vm = Self {
            gate,
            phase: Mutex::new(Phase::Paused),
            bell,
            told,
            reports: Mutex::new(reports),
            owner,
            ram,
            pagemend,
            ports,
            chipset,
            hub,
            tsc_khz: 0,
            config,
        };
        vm.start_threads(&kvm, &supported, &surroundings)?;
        Ok(vm)
    }

    fn start_threads(
        &mut self,
        kvm: &Kvm,
        supported: &CpuId,
        surroundings: &Surroundings,
    ) -> Result<(), VmError> {
        let refused = |what| move |source| VmError::Kvm { what, source };
        let mut vcpus = vec![];
        for index in 0..self.config.vcpus {
            let fd = self
                .chipset
                .vm()
                .create_vcpu(index.into())
                .map_err(refused("a vCPU"))?;
            let mut shown = cpuid::of_vcpu(supported, self.config.cpu, index, self.config.vcpus);
            self.told.show(&mut shown)?;
            fd.set_cpuid2(&shown)
                .map_err(refused("what the vCPU is to say of itself"))?;
            let mcg_cap = self.told.set_up(&fd, &shown)?;
            self.tsc_khz = fd
                .get_tsc_khz()
                .map_err(refused("to tell how fast its clock runs"))?;
            let teller = self.told.teller(index);
            let vcpu = Vcpu::new(kvm, fd, index, mcg_cap, teller)
                .map_err(refused("a vCPU's registers"))?;
            vcpus.push(vcpu);
        }
        let threads = vcpus.into_iter().zip(0..).map(|(vcpu, index)| {
            let surroundings = surroundings.clone();
            self.gate.join();
            thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || vcpu.run(surroundings))
                .inspect_err(|_| self.gate.leave())
        });
        let threads = threads.collect::<Result<_, _>>().map_err(VmError::Thread)?;
        // The signal would kill a thread that has not got so far as to block it.
        self.gate.wait_until_parked();
        self.bell.connect(threads);
        Ok(())
    }
}

fn open_console(console: &Console) -> Result<Arc<SerialPort>, VmError> {
    let open = || -> io::Result<SerialPort> {
        SerialPort::new(match console {
            Console::Stdio => Box::new(io::stdout()),
            Console::File(path) => Box::new(File::create(path)?),
            Console::Off => Box::new(io::sink()),
        })
    };
    open().map(Arc::new).map_err(|source| VmError::Serial {
        port: "console",
        source,
    })
}

/// Connects the second serial port, and has a thread feed it what comes.
fn open_channel(config: &VmConfig) -> Result<Arc<SerialPort>, VmError> {
    let filter = seccomp::filter(Task::Input, config.seccomp)?;
    let open = || -> io::Result<Arc<SerialPort>> {
        let Some(path) = &config.channel else {
            return SerialPort::new(Box::new(io::sink())).map(Arc::new);
        };
        let mut stream = UnixStream::connect(path)?;
        let port = Arc::new(SerialPort::new(Box::new(stream.try_clone()?))?);
        let fed = Arc::clone(&port);
        thread::Builder::new()
            .name("channel".to_owned())
            .spawn(move || {
                if let Err(error) = filter.apply() {
                    return tracing::error!(%error, "the channel has no input");
                }
                let mut bytes = [0; 256];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if fed.feed(&bytes[..len]).is_err() {
                        break;
                    }
                }
            })?;
        Ok(port)
    };
    open().map_err(|source| VmError::Serial {
        port: "channel",
        source,
    })
}
