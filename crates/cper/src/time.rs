//! Time stamps, in binary-coded decimal.

use core::fmt;
use core::str::FromStr;

use crate::wire::wire;

wire! {
    /// When an error was recorded, in binary-coded decimal (UEFI 2.10, N.2.1 Timestamp; ACPI 6.5,
    /// table 18.15). The time zone is that of the firmware, which says nothing of it.
    pub struct Timestamp: 8 {
        /// 0 to 59.
        pub seconds: u8,
        /// 0 to 59.
        pub minutes: u8,
        /// 0 to 23.
        pub hours: u8,
        /// Bit 0: precise, the time of the error itself and not of its record.
        pub flags: u8,
        /// 1 to 31.
        pub day: u8,
        /// 1 to 12.
        pub month: u8,
        /// 0 to 99, within the century.
        pub year: u8,
        /// 0 to 99.
        pub century: u8,
    }
}

/// The same moment in plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Civil {
    /// 0 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Timestamp {
    /// The time stamp of a moment; `None` where a number is out of its range.
    pub fn new(civil: Civil, precise: bool) -> Option<Self> {
        civil.is_valid().then(|| Self {
            seconds: to_bcd(civil.second),
            minutes: to_bcd(civil.minute),
            hours: to_bcd(civil.hour),
            flags: u8::from(precise),
            day: to_bcd(civil.day),
            month: to_bcd(civil.month),
            // Both are below 100, because the year is below 10000.
            year: to_bcd((civil.year % 100) as u8),
            century: to_bcd((civil.year / 100) as u8),
        })
    }

    /// Whether it is the time of the error, and not just that of its record.
    pub fn is_precise(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The moment; `None` where the bytes are no decimal digits or no date.
    pub fn civil(&self) -> Option<Civil> {
        let century = u16::from(from_bcd(self.century)?);
        let civil = Civil {
            year: century * 100 + u16::from(from_bcd(self.year)?),
            month: from_bcd(self.month)?,
            day: from_bcd(self.day)?,
            hour: from_bcd(self.hours)?,
            minute: from_bcd(self.minutes)?,
            second: from_bcd(self.seconds)?,
        };
        civil.is_valid().then_some(civil)
    }
}

impl Civil {
    fn is_valid(&self) -> bool {
        self.year < 10_000
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }
}

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )
    }
}

/// Text that is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a moment has the form 2026-01-31T23:59:59")]
pub struct ParseCivilError;

impl FromStr for Civil {
    type Err = ParseCivilError;

    /// Reads `2026-01-31T23:59:59`, with a space for the T if need be.
    fn from_str(text: &str) -> Result<Self, ParseCivilError> {
        let mut numbers = text.split(['-', 'T', ' ', ':']).map(|number| {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u16>().ok()).flatten()
        });
        let year = numbers.next().flatten();
        let mut next = || u8::try_from(numbers.next()??).ok();
        let mut parse = || {
            Some(Self {
                year: year?,
                month: next()?,
                day: next()?,
                hour: next()?,
                minute: next()?,
                second: next()?,
            })
        };
        let civil = parse().filter(Self::is_valid).ok_or(ParseCivilError)?;
        numbers
            .next()
            .is_none()
            .then_some(civil)
            .ok_or(ParseCivilError)
    }
}

const fn to_bcd(value: u8) -> u8 {
    value / 10 * 16 + value % 10
}

fn from_bcd(value: u8) -> Option<u8> {
    let (tens, ones) = (value >> 4, value & 15);
    (tens < 10 && ones < 10).then_some(tens * 10 + ones)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_moment_survives_the_decimal_coding() {
        let civil = Civil {
            year: 2026,
            month: 11,
            day: 21,
            hour: 9,
            minute: 59,
            second: 58,
        };
        let stamp = Timestamp::new(civil, true).unwrap();
        assert_eq!(stamp.century, 0x20);
        assert_eq!(stamp.hours, 0x09);
        assert!(stamp.is_precise());
        assert_eq!(stamp.civil(), Some(civil));
        assert_eq!(civil.to_string().parse(), Ok(civil));
    }

    #[test]
    fn what_is_no_date_is_no_moment() {
        let stamp = Timestamp::default();
        assert_eq!(stamp.civil(), None);
        for text in [
            "",
            "2026-11-21",
            "2026-11-21 24:00:00",
            "2026-11-21T09:30:00:00",
        ] {
            assert_eq!(text.parse::<Civil>(), Err(ParseCivilError), "{text}");
        }
        let stamp = Timestamp {
            day: 1,
            month: 1,
            seconds: 0x5a,
            ..stamp
        };
        assert_eq!(stamp.civil(), None);
    }
}
