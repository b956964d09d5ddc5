//! rasdaemon, because by default it takes a whole huge page away from a guest for corrected errors.

use serde::Serialize;

use super::tree::Tree;

/// Whether rasdaemon runs and what it does with pages that have corrected errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rasdaemon {
    /// Whether a process of that name is in /proc.
    pub running: bool,
    /// The file its settings are in.
    pub config: Option<&'static str>,
    /// PAGE_CE_ACTION: off, account, soft, hard or soft-then-hard.
    pub page_ce_action: Option<String>,
    /// PAGE_CE_THRESHOLD: corrected errors after which it acts.
    pub page_ce_threshold: Option<String>,
}

const CONFIGS: [&str; 2] = ["/etc/sysconfig/rasdaemon", "/etc/default/rasdaemon"];

impl Rasdaemon {
    /// What rasdaemon does without a setting (its ras-page-isolation.c).
    pub const DEFAULT_ACTION: &'static str = "soft";
    /// After how many corrected errors it does so without a setting.
    pub const DEFAULT_THRESHOLD: &'static str = "50";

    pub(super) fn read(tree: &Tree<'_>) -> Self {
        let running = tree
            .names("/proc")
            .iter()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .any(|pid| tree.text(&format!("/proc/{pid}/comm")).as_deref() == Some("rasdaemon"));
        let config = CONFIGS
            .into_iter()
            .find_map(|path| Some((path, tree.text(path)?)));
        let setting = |name: &str| {
            let (_, text) = config.as_ref()?;
            let value = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
                .next_back()?;
            Some(value.trim().trim_matches(['"', '\'']).to_owned())
        };
        Self {
            running,
            page_ce_action: setting("PAGE_CE_ACTION"),
            page_ce_threshold: setting("PAGE_CE_THRESHOLD"),
            config: config.map(|(path, _)| path),
        }
    }

    /// Whether it takes pages offline.
    pub fn offlines_pages(&self) -> bool {
        let action = self.page_ce_action.as_deref();
        self.running && !matches!(action, Some("off" | "account"))
    }
}
