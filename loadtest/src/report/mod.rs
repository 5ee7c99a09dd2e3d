//! The result: a line while it runs, a table at the end, and files.

mod html;
mod json;
mod plot;
mod table;

use std::{fs, io::Write, path::Path};

pub use table::{notes, progress, table};

use crate::{cli::Common, control::RunError, outcome::Outcome};

/// Writes the files that were asked for.
///
/// # Errors
/// When one cannot be written.
pub fn write_files(outcomes: &[Outcome], common: &Common) -> Result<(), RunError> {
    if let Some(path) = &common.json {
        write(path, &json::report(outcomes))?;
    }
    if let Some(path) = &common.html {
        write(path, &html::page(outcomes))?;
    }
    if let Some(path) = &common.hgrm {
        let texts: Vec<String> =
            outcomes.iter().map(|outcome| outcome.delivery.percentile_distribution()).collect();
        write(path, &texts.join("\n"))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), RunError> {
    let failed = |error| RunError::Write(path.display().to_string(), error);
    if path == Path::new("-") {
        return std::io::stdout().write_all(text.as_bytes()).map_err(failed);
    }
    fs::write(path, text).map_err(failed)
}
