//! Healing: the 4 KiB pages of a stretch become one huge page of the same file.
//!
//! The kernel makes it, through a view of ours, while the guest uses its own: who writes waits for it
//! page by page and loses nothing, and where anything is pinned or cannot be read there is none. The
//! marks are in the page tables of the guest's view alone. So they stay until ours is moved over
//! it, and there is no moment at which a lost frame is anything but marked or filled.

use std::io;

use pagemend_core::address::{FRAME_SIZE, HvaRange, PageSize};
use pagemend_core::host::{FILL, Target};

use crate::files::punch;
use crate::host::LinuxHost;
use crate::stage::Stage;

impl LinuxHost {
    pub(crate) fn stage_healed(&mut self, target: &Target) -> io::Result<Stage> {
        // What a transparent huge page has.
        if target.largest != PageSize::SIZE_2M {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let settings = self.settings_at(target.hva);
        let mut stage = Stage::of_what_is_there(&self.files, target.clone(), settings)?;
        stage.fill_marked()?;
        stage.make_huge(&self.files)?;
        let whole = HvaRange::new(target.hva, target.page.len()).expect("it is guest memory");
        for gpa in target.marked.iter().flat_map(|run| run.frames()) {
            let offset = gpa.get() - target.page.start().get();
            let frame = whole
                .slice(offset, FRAME_SIZE)
                .expect("it is marked in the page");
            let source = target.source_at(offset).map(|(source, _)| source);
            self.emulation.renewed(frame, source);
        }
        Ok(stage)
    }
}

impl Stage {
    /// Fresh memory for the marked frames in their file, which nobody can see under the marks.
    fn fill_marked(&self) -> io::Result<()> {
        let page = self.target().page;
        let fill = FILL.repeat(FRAME_SIZE as usize / FILL.len());
        for gpa in self.target().marked.iter().flat_map(|run| run.frames()) {
            let (file, source, _) = self.source_at(gpa.get() - page.start().get());
            // It may have failed. What failed and stays in the file cannot be written to.
            punch(&file, source.offset, FRAME_SIZE);
            let mut done = 0;
            while done < fill.len() {
                let offset = source.offset + done as u64;
                done += rustix::io::pwrite(&file, &fill[done..], offset)?;
            }
        }
        Ok(())
    }
}
