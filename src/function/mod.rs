//! A function as data: its name, entry point, settings, versions and record. No input or output.

mod entry;
mod name;
mod record;
mod settings;

pub use entry::{EntryPoint, InvalidEntryPoint};
pub use name::{FunctionName, InvalidName};
pub use record::{FORMAT, FunctionRecord, NewVersion, Version, VersionNumber};
pub use settings::{InvalidSetting, Memory, Settings};
