//! The choice between the ways, from what the guest has shown.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ghes::Condition;
use crate::x86::AoSignal;

/// How a guest is to be told of lost memory that it has not touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notify {
    /// By machine checks.
    Mce,
    /// By records that it polls.
    Ghes,
    /// By whichever it has shown that it can take.
    #[default]
    Auto,
}

/// No such way.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no way to tell a guest: mce, ghes or auto")]
pub struct UnknownNotify(String);

impl FromStr for Notify {
    type Err = UnknownNotify;

    fn from_str(name: &str) -> Result<Self, UnknownNotify> {
        match name {
            "mce" => Ok(Self::Mce),
            "ghes" => Ok(Self::Ghes),
            "auto" => Ok(Self::Auto),
            other => Err(UnknownNotify(other.to_owned())),
        }
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mce => "mce",
            Self::Ghes => "ghes",
            Self::Auto => "auto",
        })
    }
}

/// How a guest is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By a machine check.
    Mce,
    /// By a record.
    Ghes,
}

/// What a guest has shown since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// What its processors would do for an error that nobody touched.
    pub signal: AoSignal,
    /// Whether its processors let it recover from a machine check: where they do not, it panics.
    pub recovers: bool,
    /// Whether it takes machine checks (CR4.MCE); `None` where nobody has looked.
    pub machine_checks: Option<bool>,
    /// Whether it asked for firmware's error records (bit 4 of the platform's `_OSC`, ACPI 6.5,
    /// 6.2.12.2); `None` where it has asked for nothing yet.
    pub apei: Option<bool>,
    /// What has become of the records that it got; `None` where it has no source.
    pub records: Option<Condition>,
}

impl Shown {
    /// Whether it can be expected to read records.
    fn reads(&self) -> bool {
        match self.records {
            Some(Condition::Acknowledged) => true,
            // A source that is in a table, and a guest that says that it wants such.
            Some(Condition::Untried) => self.apei == Some(true),
            Some(_) | None => false,
        }
    }
}

/// The way for what waits now.
///
/// With [`Notify::Auto`] that is a record where the guest reads records, and a machine check would
/// reach it later, not at all, or be its end: where it is only found by a poll (AMD), where the
/// guest has its machine checks off, or where its processors do not let it recover. Else it is a
/// machine check, if need be one that waits.
pub fn choose(notify: Notify, shown: &Shown) -> Way {
    match notify {
        Notify::Mce => Way::Mce,
        Notify::Ghes if shown.records.is_some() => Way::Ghes,
        Notify::Ghes => Way::Mce,
        Notify::Auto => {
            let late = shown.signal == AoSignal::Record || shown.machine_checks == Some(false);
            if (late || !shown.recovers) && shown.reads() {
                Way::Ghes
            } else {
                Way::Mce
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(signal: AoSignal, machine_checks: bool, apei: bool, records: Condition) -> Way {
        let shown = Shown {
            signal,
            recovers: true,
            machine_checks: Some(machine_checks),
            apei: Some(apei),
            records: Some(records),
        };
        choose(Notify::Auto, &shown)
    }

    #[test]
    fn amd_guests_that_want_records_get_them_and_others_a_machine_check() {
        use AoSignal::Record;
        assert_eq!(auto(Record, true, true, Condition::Untried), Way::Ghes);
        assert_eq!(auto(Record, true, false, Condition::Untried), Way::Mce);
        assert_eq!(
            auto(Record, true, false, Condition::Acknowledged),
            Way::Ghes
        );
    }

    #[test]
    fn intel_guests_get_a_machine_check_unless_they_have_them_off() {
        for signal in [AoSignal::Exception, AoSignal::Interrupt] {
            assert_eq!(auto(signal, true, true, Condition::Acknowledged), Way::Mce);
            assert_eq!(auto(signal, false, true, Condition::Untried), Way::Ghes);
            assert_eq!(auto(signal, false, false, Condition::Untried), Way::Mce);
        }
    }

    #[test]
    fn intel_guests_that_a_machine_check_would_end_get_records_if_they_read_them() {
        let shown = |records| Shown {
            signal: AoSignal::Exception,
            recovers: false,
            machine_checks: Some(true),
            apei: Some(true),
            records: Some(records),
        };
        let auto = |records| choose(Notify::Auto, &shown(records));
        assert_eq!(auto(Condition::Untried), Way::Ghes);
        assert_eq!(auto(Condition::Ignored), Way::Mce);
    }

    #[test]
    fn a_source_that_is_not_read_or_cannot_be_used_is_not_used_again() {
        for records in [Condition::Ignored, Condition::GivenUp, Condition::Broken] {
            assert_eq!(auto(AoSignal::Record, true, true, records), Way::Mce);
        }
    }

    #[test]
    fn nothing_is_put_into_records_before_the_guest_has_shown_anything() {
        let shown = Shown {
            signal: AoSignal::Record,
            recovers: true,
            machine_checks: None,
            apei: None,
            records: Some(Condition::Untried),
        };
        assert_eq!(choose(Notify::Auto, &shown), Way::Mce);
        assert_eq!(choose(Notify::Ghes, &shown), Way::Ghes);
        let none = Shown {
            records: None,
            ..shown
        };
        assert_eq!(choose(Notify::Ghes, &none), Way::Mce, "there is no other");
    }

    #[test]
    fn a_way_has_the_name_by_which_it_is_chosen() {
        for notify in [Notify::Mce, Notify::Ghes, Notify::Auto] {
            assert_eq!(notify.to_string().parse(), Ok(notify));
        }
        assert!("nmi".parse::<Notify>().is_err());
    }
}
