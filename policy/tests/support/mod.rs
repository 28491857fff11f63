//! What the tests of the table share.

use std::fs;
use std::path::Path;

use keyhole_policy::pattern::{is_wild, matches, names};

/// The paths below `dir` that a pattern stands for, as a reader finds them: a component with wildcards lists.
pub fn expand(dir: &Path, pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for component in pattern.split('/') {
        let children = |path: &String| -> Vec<String> {
            if !is_wild(component) {
                return names(component);
            }
            let entries = fs::read_dir(dir.join(path)).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| matches(component.as_bytes(), name.as_bytes())).collect()
        };
        let join =
            |path: &String, name: String| if path.is_empty() { name } else { format!("{path}/{name}") };
        found = found
            .iter()
            .flat_map(|path| children(path).into_iter().map(move |name| join(path, name)))
            .filter(|path| dir.join(path).symlink_metadata().is_ok())
            .collect();
    }
    found
}
