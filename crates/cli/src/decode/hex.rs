//! Bytes as people pass them on: the output of `xxd`, of `hexdump -C`, of the kernel's dumps of bytes, or
//! hexadecimal digits with whatever white space, commas and `0x` between them.

/// The bytes that text stands for; `None` where it is not only hexadecimal digits.
pub(super) fn read(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut repeated = false;
    let mut last_line = Vec::new();
    for line in text.lines().map(str::trim) {
        if line == "*" {
            repeated = true;
            continue;
        }
        let (offset, digits) = split(line);
        if let Some(offset) = offset {
            // `*` stands for lines like the last one, up to the next offset.
            while repeated && bytes.len() < offset && !last_line.is_empty() {
                bytes.extend_from_slice(&last_line);
            }
            if offset != bytes.len() {
                return None;
            }
        }
        repeated = false;
        last_line = read_digits(digits)?;
        bytes.extend_from_slice(&last_line);
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// The offset that a line starts with, if it does, and its digits without the characters beside them.
fn split(line: &str) -> (Option<usize>, &str) {
    let is_offset =
        |text: &str| text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let offset = |text| usize::from_str_radix(text, 16).ok();
    if let Some((start, rest)) = line.split_once(':')
        && is_offset(start)
    {
        let rest = rest.trim_start();
        return (offset(start), rest.split("  ").next().unwrap_or(rest));
    }
    let (digits, has_characters) = match line.split_once('|') {
        Some((digits, _)) => (digits, true),
        None => (line, false),
    };
    let (start, rest) = digits.split_once(' ').unwrap_or((digits, ""));
    // `hexdump -C` ends with a line that has an offset and nothing else.
    let is_last = rest.is_empty() && start.len() == 8 && line.len() == 8;
    if is_offset(start) && (has_characters || is_last) {
        return (offset(start), rest);
    }
    (None, digits)
}

fn read_digits(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let words = text.split(|c: char| c.is_whitespace() || c == ',');
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.strip_prefix("0x").unwrap_or(word);
        if word.len() % 2 != 0 || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for at in (0..word.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&word[at..at + 2], 16).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_common_tools_print_is_read_back() {
        let expected: Vec<u8> = (b'A'..=b'T').collect();
        for text in [
            "00000000: 4142 4344 4546 4748 494a 4b4c 4d4e 4f50  ABCDEFGHIJKLMNOP\n\
             00000010: 5152 5354                                QRST\n",
            "00000000  41 42 43 44 45 46 47 48  49 4a 4b 4c 4d 4e 4f 50  |ABCDEFGHIJKLMNOP|\n\
             00000010  51 52 53 54                                       |QRST|\n\
             00000014\n",
            "4142434445464748494a4b4c4d4e4f5051525354",
            "0x41, 0x42, 0x43,0x44 45464748 494a4b4c 4d4e4f50\n51 52 53 54\n",
        ] {
            assert_eq!(read(text).as_deref(), Some(&expected[..]), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_lines_like_the_last() {
        let text = "00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n\
                    *\n00000030  01                                                |.|\n00000031\n";
        let bytes = read(text).unwrap();
        assert_eq!((bytes.len(), bytes[0x30]), (0x31, 1));
    }

    #[test]
    fn other_text_is_no_bytes() {
        for text in ["", "hello", "4", "00000010: 41", "41 4g"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
