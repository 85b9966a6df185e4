//! The one place that writes to stdout and stderr.

use std::io::{IsTerminal, Write};

use super::OutputFormat;

/// Knows how much to say and whether a person is looking.
pub struct Printer {
    quiet: bool,
    verbose: u8,
    colour: bool,
    terminal: bool,
}

impl Printer {
    pub fn new(quiet: bool, verbose: u8) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { quiet, verbose, colour, terminal }
    }

    /// The result: a line on stdout. A reader that has gone away is no error of ours.
    pub fn data(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
    }

    /// A piece of the result as it is.
    pub fn bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// A piece of a command's own errors as it is.
    pub fn error_bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        std::io::stderr().lock().write_all(bytes)
    }

    /// Ends the line of what [`Printer::bytes`] wrote, for a person; a pipe gets the bytes and no more.
    pub fn end_line(&self, last: Option<u8>) {
        if last.is_some_and(|byte| byte != b'\n') && std::io::stdout().is_terminal() {
            self.data("");
        }
    }

    /// The result as JSON, indented: for `-o json`.
    pub fn json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        self.data(serde_json::to_string_pretty(value)?);
        Ok(())
    }

    /// The result as it was asked for: all of it as JSON, or what `text` says of it.
    pub fn result(
        &self,
        output: OutputFormat,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        match output {
            OutputFormat::Json => self.json(value)?,
            OutputFormat::Text => self.data(text()),
        }
        Ok(())
    }

    /// What is going on, for people: stderr, silent with `-q`.
    pub fn status(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Detail for `-v`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose > 0 {
            self.status(text);
        }
    }

    pub fn warning(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{} {}", self.paint("33", "warning:"), text.as_ref());
    }

    /// An error with its causes on one line each, then the next step.
    pub fn error(&self, error: &anyhow::Error, hint: Option<&str>) {
        self.error_of(None, error, hint);
    }

    /// The same of one of several things.
    pub fn error_of(&self, what: Option<&str>, error: &anyhow::Error, hint: Option<&str>) {
        let mut stderr = std::io::stderr().lock();
        let what = what.map(|what| format!("{what}: ")).unwrap_or_default();
        let _ = writeln!(stderr, "{} {what}{error}", self.paint("31", "error:"));
        let mut shown = error.to_string();
        for cause in error.chain().skip(1) {
            let text = cause.to_string();
            // Some libraries repeat their source in their own text; saying it once is enough.
            if !shown.ends_with(&text) {
                let _ = writeln!(stderr, "  because: {}", text.trim_end());
            }
            shown = text;
        }
        if let Some(hint) = hint {
            let _ = writeln!(stderr, "{} {hint}", self.paint("36", "hint:"));
        }
    }

    /// Whether a progress bar would be seen.
    pub fn shows_progress(&self) -> bool {
        self.terminal && !self.quiet
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}
