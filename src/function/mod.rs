//! A function as data: its name, entry point, settings, versions and record. No input or output.

mod deployment;
mod entry;
mod labels;
mod name;
mod package;
mod parameter;
mod patch;
mod record;
mod request;
mod settings;
mod target;

pub use deployment::{Deployment, NAMESPACE, Resources};
pub use entry::{EntryPoint, InvalidEntryPoint};
pub use labels::labelled_scale;
pub use name::{FunctionName, InvalidName};
pub use package::Package;
pub use parameter::{Parameter, ParameterKind, signature};
pub use patch::{AsyncPatch, SettingsPatch, parse_cpu, parse_duration, parse_number, show_duration};
pub use record::{FORMAT, FunctionRecord, InvalidSplit, NewVersion, Version, VersionNumber};
pub use request::VersionRequest;
pub use settings::{AsyncSettings, InvalidSetting, Memory, Settings};
pub use target::Target;
