//! placeholder

use anyhow::Result;
use pagemend_lab_protocol::Report;
use std::path::{Path, PathBuf};

/// Placeholder.
///
/// # Errors
/// None.
pub fn write_tables(_directory: &Path, _reports: &[Report]) -> Result<Vec<PathBuf>> {
    Ok(Vec::new())
}
