//! `fnbuild export NAME… --as ENGINE`: the current versions as manifests for other engines, on stdout.

use crate::api::Described;
use crate::export::{Engine, Exported, manifests};
use crate::function::FunctionName;

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild export add mail --as kubernetes > functions.yaml")]
pub struct Arguments {
    /// The functions
    #[arg(required = true)]
    names: Vec<FunctionName>,
    /// The engine that will run them
    #[arg(long = "as", value_enum, value_name = "ENGINE")]
    engine: EngineName,
    /// The registry's host as that engine's machines reach it [default: as this server does]
    #[arg(long, env = "FNBUILD_EXPORT_REGISTRY", value_name = "HOST[:PORT]")]
    registry: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum EngineName {
    Kubernetes,
    Knative,
    Compose,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let functions = block_on(async {
        let mut functions = Vec::new();
        for name in &arguments.names {
            let described: Described = server.get(&format!("/v1/functions/{name}")).await?;
            functions.push(exported(described, arguments.registry.as_deref()));
        }
        Ok(functions)
    })?;
    let engine = match arguments.engine {
        EngineName::Kubernetes => Engine::Kubernetes,
        EngineName::Knative => Engine::Knative,
        EngineName::Compose => Engine::Compose,
    };
    printer.bytes(manifests(&functions, engine).as_bytes())?;
    Ok(Outcome::Success)
}

fn exported(described: Described, registry: Option<&str>) -> Exported {
    // The server names its images by host, repository and digest.
    let image = match (registry, described.image.split_once('/')) {
        (Some(registry), Some((_, rest))) => format!("{registry}/{rest}"),
        _ => described.image,
    };
    Exported { name: described.name, image, settings: described.settings }
}
