//! Wrong usage: what clap cannot know, and what clap says of it.

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, CommandFactory, Parser};

use super::server::ServerError;
use crate::config::ConfigError;
use crate::function::InvalidSetting;

/// Arguments that each make sense, and do not together or not here.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Usage {
    message: String,
    hint: Option<&'static str>,
}

impl Usage {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The next step.
    pub fn hint(&self) -> Option<String> {
        self.hint.map(str::to_string)
    }
}

/// Whether the arguments alone are to blame: exit code 2.
pub fn is_to_blame(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.is::<ConfigError>()
        || error.is::<InvalidSetting>()
        || matches!(error.downcast_ref(), Some(ServerError::Url { .. }))
}

/// The process's arguments, or an error that can be printed.
pub fn parse<T: Parser>() -> Result<T, clap::Error> {
    T::try_parse().map_err(|error| told_without_environment(error, <T as CommandFactory>::command()))
}

/// For clap a variable is as good as a flag, and its usage then names the variable's flag as if it had to be given. What
/// the same arguments alone are told has no such flags.
fn told_without_environment(mut error: clap::Error, mut command: Command) -> clap::Error {
    // Verbs get their arguments only now.
    command.build();
    let Err(plain) = without_environment(command).try_get_matches_from(std::env::args_os()) else {
        return error;
    };
    match (error.kind(), plain.kind()) {
        (ErrorKind::MissingSubcommand, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) => plain,
        (kind, same) if kind == same => {
            if let Some(usage) = plain.get(ContextKind::Usage) {
                error.insert(ContextKind::Usage, usage.clone());
            }
            error
        }
        _ => error,
    }
}

fn without_environment(command: Command) -> Command {
    command.mut_args(|argument| argument.env(None::<&str>)).mut_subcommands(without_environment)
}
