//! Scenarios that fail on purpose, each in its own way. `cargo xtask lab --self-test` runs them and fails if one of them passes, or fails for another reason.

use crate::registry::scenario;
use pagemend_lab_protocol::Needs;
use std::fs;

scenario! {
    name: "broken/claims-what-is-not-so",
    proves: "a claim that does not hold is a failure",
    set: Broken,
    needs: Needs::NOTHING,
    run: |t| {
        t.equal("one is two", 1, 2);
        Ok(())
    },
}

scenario! {
    name: "broken/dies",
    proves: "a scenario that is killed is a failure",
    set: Broken,
    needs: Needs::NOTHING,
    run: |_| std::process::abort(),
}

scenario! {
    name: "broken/goes-away-without-a-word",
    proves: "a scenario that ends without a verdict is a failure",
    set: Broken,
    needs: Needs::NOTHING,
    run: |_| std::process::exit(0),
}

scenario! {
    name: "broken/hangs",
    proves: "a scenario that goes silent is a failure within its time limit",
    set: Broken,
    needs: Needs::NOTHING.seconds(3),
    run: |_| loop { std::thread::park(); },
}

scenario! {
    name: "broken/crashes-the-kernel",
    proves: "a kernel that panics is a failure with its log",
    set: Broken,
    needs: Needs::NOTHING,
    run: |t| {
        t.step("crash");
        fs::write("/proc/sysrq-trigger", "c")?;
        Ok(())
    },
}

scenario! {
    name: "broken/passes",
    proves: "after all of these the lab still runs a scenario that is right",
    set: Broken,
    needs: Needs::NOTHING,
    run: |t| {
        t.equal("one is one", 1, 1);
        Ok(())
    },
}
