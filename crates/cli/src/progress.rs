//! How far it is, for who watches a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work with a known end.
    pub(crate) fn new(what: &'static str, steps: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %")
            .expect("the template is fixed and valid");
        Self(ProgressBar::new(steps).with_style(style).with_message(what))
    }

    /// Work that ends when it does.
    pub(crate) fn spinner(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}")
            .expect("the template is fixed and valid");
        Self(
            ProgressBar::new_spinner()
                .with_style(style)
                .with_message(what),
        )
    }

    pub(crate) fn set(&self, steps: u64) {
        self.0.set_position(steps);
    }

    pub(crate) fn advance(&self) {
        self.0.inc(1);
    }

    pub(crate) fn tick(&self) {
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
