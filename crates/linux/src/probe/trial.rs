//! The outcome of trying a call, because "does it work here, for this process" has no other
//! reliable answer: kernel version, build, privileges and seccomp filters all have a say.

use rustix::io::Errno;
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// A call that the kernel, or a filter in front of it, refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct Refused {
    /// The call, as its manual page names it.
    pub call: &'static str,
    /// Why.
    pub errno: Errno,
}

/// For `map_err`: which call it was that failed.
pub(crate) fn refused(call: &'static str) -> impl Fn(Errno) -> Refused {
    move |errno| Refused { call, errno }
}

/// For calls without a wrapper: −1 is an error, whose number the thread keeps.
pub(super) fn checked(returned: libc::c_int) -> Result<libc::c_int, Errno> {
    match returned {
        -1 => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::INVAL, Errno::from_raw_os_error)),
        value => Ok(value),
    }
}

/// Whether something works. As JSON: `{"works": bool, "error": string or null}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It was tried and it works.
    Works,
    /// It was tried and refused.
    Refused(Refused),
}

impl Trial {
    /// Whether it works.
    pub fn works(&self) -> bool {
        *self == Self::Works
    }

    /// What refused, where something did.
    pub fn error(&self) -> Option<Refused> {
        match self {
            Self::Works => None,
            Self::Refused(refused) => Some(*refused),
        }
    }
}

impl<T> From<&Result<T, Refused>> for Trial {
    fn from(outcome: &Result<T, Refused>) -> Self {
        outcome
            .as_ref()
            .map_or_else(|refused| Self::Refused(*refused), |_| Self::Works)
    }
}

impl Serialize for Trial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Trial", 2)?;
        fields.serialize_field("works", &self.works())?;
        fields.serialize_field("error", &self.error().map(|refused| refused.to_string()))?;
        fields.end()
    }
}
