//! Writes the archive that a kernel unpacks at boot: the `newc` form of cpio, as the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` has it.

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// Adds a file that may be executed.
    pub(crate) fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, 0o100_755, contents);
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let length = u32::try_from(contents.len()).expect("an initramfs file is far below 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("names are short");
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device ×4, length of the name with its NUL, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    /// Header with name, and contents, each end at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_contents_start_at_multiples_of_four() {
        for length in 0..9 {
            let mut archive = Archive::default();
            archive.file("init", &vec![b'x'; length]);
            let bytes = archive.finish();
            let trailer = bytes
                .windows(10)
                .position(|window| window == b"TRAILER!!!")
                .unwrap();
            assert_eq!((trailer - 110) % 4, 0, "contents of {length} bytes");
            assert_eq!(bytes.len() % 4, 0);
        }
    }

    #[test]
    fn a_file_is_written_as_the_format_says() {
        let mut archive = Archive::default();
        archive.file("a", b"hi");
        let bytes = archive.finish();
        let text = std::str::from_utf8(&bytes[..112]).unwrap();
        assert_eq!(
            text,
            "07070100000001000081ed0000000000000000000000010000000000000002\
             000000000000000000000000000000000000000200000000a\0"
        );
        assert_eq!(&bytes[112..116], b"hi\0\0");
    }
}
