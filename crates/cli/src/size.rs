//! Amounts of memory as people write them: `512M` on the command line, `512 MiB` in the output.

use std::fmt;
use std::str::FromStr;

/// Units from the largest to the smallest, with the letters that stand for them.
const UNITS: [(u32, char, &str); 4] = [
    (40, 'T', "TiB"),
    (30, 'G', "GiB"),
    (20, 'M', "MiB"),
    (10, 'K', "KiB"),
];

/// An amount of memory in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let number = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &upper[number.len()..];
        let unit = unit.trim_end_matches('B').trim_end_matches('I');
        let shift = match unit {
            "" => Some(0),
            unit => UNITS
                .iter()
                .find(|(_, letter, _)| unit.chars().eq([*letter]))
                .map(|(shift, ..)| *shift),
        };
        let amount = number.trim().parse::<u64>().ok();
        amount
            .zip(shift)
            .and_then(|(amount, shift)| amount.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| "expected bytes, or a number with K, M, G or T, such as 512M".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(shift, ..)| self.0 >> shift > 0);
        match unit {
            None => write!(f, "{} bytes", self.0),
            Some((shift, _, name)) if self.0.trailing_zeros() >= *shift => {
                write!(f, "{} {name}", self.0 >> shift)
            }
            Some((shift, _, name)) => {
                write!(f, "{:.1} {name}", self.0 as f64 / (1u64 << shift) as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_or_a_number_with_a_unit() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1gb", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "12Q", "16777216T", "1MM"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_printed_in_the_largest_unit_that_it_fills() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (4096, "4 KiB"),
            (33_554_432, "32 MiB"),
            ((32 << 20) - 65536, "31.9 MiB"),
            ((2 << 30) + (1 << 29), "2.5 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
