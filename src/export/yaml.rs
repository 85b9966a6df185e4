//! JSON values as YAML that is good to read: blocks for what holds something, quotes where plain text would be read as
//! something else. Every YAML reader of either version (1.1, 1.2) reads the same values back.

use std::fmt::Write;

use serde_json::Value;

/// One document, without its `---`, and a line's end after it.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text.trim_start_matches('\n').trim_start().to_owned()
}

/// Writes a value after `key:` or `-`: on the same line what is simple, else on the following ones.
fn block(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, member) in members {
                indent(text, depth);
                text.push_str(&string(key));
                text.push(':');
                block(text, member, depth + 1);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(text, depth);
                text.push('-');
                let mut inner = String::new();
                block(&mut inner, item, depth + 1);
                // The first line of what an item holds stands behind its dash.
                text.push(' ');
                text.push_str(inner.trim_start());
            }
        }
        simple => {
            let _ = writeln!(text, " {}", scalar(simple));
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&"  ".repeat(depth));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        // Numbers, true, false, null, {} and [] are the same in both.
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    // Both cases of these words are a truth value or nothing somewhere.
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "yes" | "n" | "no" | "true" | "false" | "on" | "off" | "null"
    );
    if starts && !word && text.chars().all(plain) { text.into() } else { quoted(text) }
}

/// JSON's escapes are YAML's; what YAML calls unprintable is escaped beyond them.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        let _ = match c {
            '"' => write!(quoted, "\\\""),
            '\\' => write!(quoted, "\\\\"),
            '\n' => write!(quoted, "\\n"),
            '\t' => write!(quoted, "\\t"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                write!(quoted, "\\u{:04x}", u32::from(c))
            }
            c => write!(quoted, "{c}"),
        };
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_blocks() {
        let value = json!({
            "a": { "b": [1, { "c": "x", "d": [] }, ["y"]], "e": {} },
            "f": "no",
            "g": "line\nbreak",
        });
        let text = "a:\n  b:\n    - 1\n    - c: x\n      d: []\n    - - \"y\"\n  e: {}\nf: \"no\"\ng: \"line\\nbreak\"\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn what_could_be_read_as_something_else_is_quoted() {
        for text in [
            "", "1", "1e3", "0x1f", "~", "-", "a: b", "# a", "yes", "NULL", "é", "a b", "12:30", "@a", "=",
            "<<",
        ] {
            assert!(string(text).starts_with('"'), "{text}");
        }
        for text in ["apps/v1", "http1", "app.kubernetes.io/name", "/tmp"] {
            assert_eq!(string(text), text);
        }
        assert_eq!(string("\u{7f}\u{85}\""), r#""\u007f\u0085\"""#);
    }
}
