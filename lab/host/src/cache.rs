//! The lab's directory from run to run. Each change of a program makes another image, and a run that is killed leaves behind what it was making; both would fill a disk. Runs share a lock for as long as they last, and one that finds itself alone tidies up before it begins.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How many images stay: those that were used last. A kernel has two at a time.
const IMAGES: usize = 12;

/// What is younger stays as well: machines that share a directory may not share its locks.
const YOUNG: Duration = Duration::from_secs(3 * 3600);

/// What the directories of boots begin with.
pub(crate) const BOOT: &str = "boot-";

/// Those of boots whose logs are kept, which are nobody's to remove but the user's.
pub(crate) const KEPT: &str = "kept-";

/// What files and directories begin with while they are made.
const HALF_DONE: &str = ".tmp";

/// Makes the directory if need be, and holds it until what is returned is dropped.
pub(crate) fn hold(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = cache.join("in-use");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    if lock.try_lock().is_ok() {
        tidy(cache);
        let _ = lock.unlock();
    }
    // Where there are no locks nobody is known to be alone, so nothing is tidied.
    let _ = lock.lock_shared();
    Ok(lock)
}

/// Where images are.
pub(crate) fn images(cache: &Path) -> PathBuf {
    cache.join("images")
}

/// Notes that an image is used.
pub(crate) fn used(image: &Path) {
    // One that cannot be marked, because somebody else made it, goes earlier and is made again.
    let _ = File::open(image).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes what nobody needs any more. What cannot be removed stays until it can.
fn tidy(cache: &Path) {
    let images = images(cache);
    let left_behind = |name: &str| name.starts_with(BOOT) || name.starts_with(HALF_DONE);
    let mut gone = by_age(&images, |name| name.ends_with(".cpio"));
    gone.drain(..gone.len().min(IMAGES));
    for place in [cache, &cache.join("kernels"), &images] {
        gone.extend(by_age(place, left_behind));
    }
    for (age, path) in gone {
        if age < YOUNG {
            continue;
        }
        let _ = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
    }
}

/// What a directory has of such names, the youngest first, and how long ago each was written or used.
fn by_age(directory: &Path, such: impl Fn(&str) -> bool) -> Vec<(Duration, PathBuf)> {
    let now = SystemTime::now();
    let mut found: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&such))
        .filter_map(|entry| {
            let at = entry.metadata().ok()?.modified().ok()?;
            Some((now.duration_since(at).unwrap_or_default(), entry.path()))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a file or directory that was used so many hours ago.
    fn make(path: PathBuf, hours: u64) -> PathBuf {
        if path.extension().is_some() {
            fs::write(&path, "").unwrap();
        } else {
            fs::create_dir_all(path.join("within")).unwrap();
        }
        let at = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::open(&path).unwrap().set_modified(at).unwrap();
        path
    }

    fn image(cache: &Path, hours: u64) -> PathBuf {
        make(images(cache).join(format!("{hours}.cpio")), hours)
    }

    #[test]
    fn images_that_were_used_last_stay() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(images(cache.path())).unwrap();
        let made: Vec<_> = (10..10 + IMAGES as u64 + 2)
            .map(|hours| image(cache.path(), hours))
            .collect();
        // The oldest one is used again, so it is the youngest.
        let (again, others) = made.split_last().unwrap();
        used(again);
        drop(hold(cache.path()).unwrap());
        let (stay, go) = others.split_at(IMAGES - 1);
        assert!(again.exists() && stay.iter().all(|path| path.exists()));
        assert!(!go.is_empty() && !go.iter().any(|path| path.exists()));
    }

    #[test]
    fn what_a_killed_run_left_behind_goes_when_it_is_old() {
        let cache = tempfile::tempdir().unwrap();
        let at = |name: &str, hours| make(cache.path().join(name), hours);
        let (kernels, images) = (at("kernels", 9), at("images", 9));
        let gone = [
            at("boot-a", 9),
            at("kernels/.tmpb", 9),
            at("images/.tmp.c", 9),
        ];
        let stay = [
            at("boot-d", 1),
            at("kept-e", 9),
            at("kernels/linux-image", 9),
            kernels,
            images,
        ];
        drop(hold(cache.path()).unwrap());
        assert!(!gone.iter().any(|path| path.exists()), "{gone:?}");
        assert!(stay.iter().all(|path| path.exists()), "{stay:?}");
    }

    #[test]
    fn nothing_goes_while_another_run_may_be_using_it() {
        let cache = tempfile::tempdir().unwrap();
        let other = hold(cache.path()).unwrap();
        let old = make(cache.path().join("boot-a"), 9);
        drop(hold(cache.path()).unwrap());
        assert!(old.exists());
        drop(other);
        drop(hold(cache.path()).unwrap());
        assert!(!old.exists());
    }
}
