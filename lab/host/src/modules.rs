//! Kernel modules: found by name in a tree, with what they depend on, unpacked and in an order in which they load.

use anyhow::{Context, Result, bail};
use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// A module ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) contents: Vec<u8>,
}

/// The modules and those that they need, each after what it depends on. A kernel may have any of them built in, so one that is not there is left out.
pub(crate) fn collect(tree: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(tree, &mut files)?;
    let mut modules = Vec::new();
    for name in names {
        add(name, &files, &mut modules, 0)?;
    }
    Ok(modules)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    modules: &mut Vec<Module>,
    depth: usize,
) -> Result<()> {
    let name = name.replace('_', "-");
    if depth > 16 {
        bail!("the modules depend on each other in a circle, around {name}");
    }
    if modules.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(path) = files.get(&name) else {
        return Ok(());
    };
    let contents = unpack(path)?;
    for dependency in dependencies(&contents) {
        add(&dependency, files, modules, depth + 1)?;
    }
    modules.push(Module { name, contents });
    Ok(())
}

/// All modules below a directory by name, with `-` for `_` as the kernel treats them alike.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot look for modules in {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, files)?;
        } else if let Some((name, _)) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(name.replace('_', "-"), path);
        }
    }
    Ok(())
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot unpack {}", path.display());
    let mut file = BufReader::new(fs::File::open(path).with_context(what)?);
    let mut contents = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => file.read_to_end(&mut contents).map(drop).with_context(what),
        Some("xz") => lzma_rs::xz_decompress(&mut file, &mut contents).with_context(what),
        Some("zst") => StreamingDecoder::new(&mut file)
            .with_context(what)?
            .read_to_end(&mut contents)
            .map(drop)
            .with_context(what),
        Some("gz") => GzDecoder::new(&mut file)
            .read_to_end(&mut contents)
            .map(drop)
            .with_context(what),
        other => bail!(
            "{} is compressed in a way ({}) that the lab cannot unpack; it knows .ko, .ko.xz, .ko.zst and .ko.gz",
            path.display(),
            other.unwrap_or("none")
        ),
    }?;
    Ok(contents)
}

/// What a module says that it depends on: `depends=a,b` in its `.modinfo`, whose strings end with NUL.
fn dependencies(contents: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = contents.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = contents[start + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn module(directory: &Path, name: &str, depends: &str) {
        let contents = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
        fs::write(directory.join(format!("{name}.ko")), contents).unwrap();
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_once() {
        let tree = tempfile::tempdir().unwrap();
        module(tree.path(), "kvm-amd", "ccp,kvm");
        module(tree.path(), "kvm", "irqbypass");
        module(tree.path(), "irqbypass", "");
        module(tree.path(), "ccp", "");
        let modules = collect(tree.path(), &["kvm", "kvm_amd", "built-in"]).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["irqbypass", "kvm", "ccp", "kvm-amd"]);
    }

    #[test]
    fn modules_in_a_circle_are_an_error() {
        let tree = tempfile::tempdir().unwrap();
        module(tree.path(), "hen", "egg");
        module(tree.path(), "egg", "hen");
        assert!(collect(tree.path(), &["hen"]).is_err());
    }

    #[test]
    fn a_module_is_the_same_however_it_is_compressed() {
        let tree = tempfile::tempdir().unwrap();
        // More than a block of any of them, and no two alike.
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &plain[..], &mut xz).unwrap();
        let zst = compress_to_vec(&plain[..], CompressionLevel::Fastest);
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&plain).unwrap();
        let gz = gz.finish().unwrap();
        for (ending, bytes) in [("", plain.clone()), (".xz", xz), (".zst", zst), (".gz", gz)] {
            let name = format!("one{}", ending.replace('.', "-"));
            let path = tree.path().join(format!("{name}.ko{ending}"));
            fs::write(&path, &bytes).unwrap();
            let modules = collect(tree.path(), &[&name]).unwrap();
            assert_eq!(modules[0].name, name);
            assert!(modules[0].contents == plain, "{ending}");
            // Half of it is no module.
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            assert_eq!(collect(tree.path(), &[&name]).is_ok(), ending.is_empty());
        }
    }

    #[test]
    fn a_module_compressed_otherwise_is_an_error_that_names_it() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("one.ko.lz4"), "").unwrap();
        let error = collect(tree.path(), &["one"]).unwrap_err().to_string();
        assert!(error.contains("one.ko.lz4"), "{error}");
    }
}
