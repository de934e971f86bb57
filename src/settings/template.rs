//! `{name}` and `{path}` in a replica URL: one variable for several databases, without their sharing a replica.

use crate::store::encode_bytes;
use std::path::Path;

/// A URL with its placeholders filled in.
pub(super) struct Filled {
    pub text: String,
    pub has_placeholder: bool,
}

/// Fills in the file's name and its whole path, escaped where the template is a URL.
pub(super) fn fill(template: &str, database: &Path) -> Result<Filled, String> {
    let is_url = template.contains("://");
    let mut text = String::new();
    let mut has_placeholder = false;
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((word, tail)) = after.split_once('}') else {
            return Err("`{` has no `}`; known are {name} and {path}".to_string());
        };
        let value = match word {
            "name" => database.file_name().unwrap_or(database.as_os_str()),
            "path" => database.as_os_str(),
            _ => return Err(format!("`{{{word}}}` is unknown; known are {{name}} and {{path}}")),
        };
        text.push_str(before);
        let value = if is_url {
            encode_bytes(value.as_encoded_bytes())
        } else {
            value.to_str().ok_or("the database's path is not UTF-8: write the folder as file:///…")?.to_string()
        };
        text.push_str(value.trim_start_matches('/'));
        has_placeholder = true;
        rest = tail;
    }
    text.push_str(rest);
    Ok(Filled { text, has_placeholder })
}
