//! `fnbuild build SOURCE`: an image in a folder, a file, a registry, or the data folder, with no daemon of any kind.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;

use super::image_flags::{ImageArguments, function_name};
use super::registry_flags::RegistryArguments;
use super::requirements::RequirementArguments;
use super::{Common, Outcome, Printer};
use crate::function::FunctionName;
use crate::image::{self, Image, Layout};
use crate::oci::{Reference, Tag};
use crate::publish::{self, Job, Meter};

#[derive(clap::Args)]
pub struct Arguments {
    /// A .zip, a .py file or a folder
    source: PathBuf,
    /// The function's name [default: the source's, in lower case, _ as -]
    #[arg(long)]
    name: Option<FunctionName>,
    /// Where the image goes, or how the result is printed; may be given several times
    ///
    /// oci:DIR[:TAG] is an OCI image layout, docker-archive:FILE a tar for docker load and ctr images import, registry
    /// the one that --registry names; json and text say how the result is printed. Without a place the image is kept in
    /// the data folder, under its name.
    #[arg(short, long, value_name = "oci:DIR[:TAG]|docker-archive:FILE|registry|json")]
    output: Vec<Output>,
    /// A tag instead of latest; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,
    #[command(flatten)]
    image: ImageArguments,
    #[command(flatten)]
    requirements: RequirementArguments,
    #[command(flatten)]
    registry: RegistryArguments,
}

/// One `-o`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Output {
    Json,
    Text,
    Registry,
    Layout { folder: PathBuf, tag: Option<Tag> },
    DockerArchive(PathBuf),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "json" => Ok(Self::Json),
            None if text == "text" => Ok(Self::Text),
            None if text == "registry" => Ok(Self::Registry),
            Some(("docker-archive", file)) if !file.is_empty() => Ok(Self::DockerArchive(file.into())),
            Some(("oci", place)) if !place.is_empty() => {
                // A colon in a folder's name belongs to it, unless a tag follows it.
                let (folder, tag) = match place.rsplit_once(':') {
                    Some((folder, tag)) if !tag.contains('/') => (
                        folder,
                        Some(tag.parse().map_err(|error: crate::oci::InvalidReference| error.to_string())?),
                    ),
                    _ => (place, None),
                };
                Ok(Self::Layout { folder: folder.into(), tag })
            }
            _ => Err("expected oci:DIR[:TAG], docker-archive:FILE, registry or json".into()),
        }
    }
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let name = function_name(arguments.name.as_ref(), &arguments.source)?;
    let data = common.data_dir()?;
    let tags = if arguments.tags.is_empty() { vec![Tag::latest()] } else { arguments.tags.clone() };
    let job = Job {
        source: arguments.source.clone(),
        from: arguments.image.source_options(),
        base: arguments.image.base.clone(),
        packages: arguments.requirements.packages(&data),
        data,
        repository: name.repository(),
        options: arguments.image.image_options(&name),
        tags,
    };
    let built = publish::build(&job)?;
    let mut places = Vec::new();
    for output in &arguments.output {
        places.extend(match output {
            Output::Registry => Some(push(&job, &built.image, &arguments.registry)?),
            other => write(other, &built.image, &name, &job.tags)?,
        });
    }
    if places.is_empty() {
        let folder = job.data.join("images");
        std::fs::create_dir_all(&job.data).with_context(|| format!("create {}", job.data.display()))?;
        Layout::create(&folder)?.write_image(&built.image, &[name.as_str()])?;
        places.push(format!("oci:{}:{name}", folder.display()));
    }
    let digest = &built.image.descriptor().digest;
    let size: u64 = built.image.manifest().layers.iter().map(|layer| layer.size).sum();
    if arguments.output.contains(&Output::Json) {
        printer.json(&serde_json::json!({
            "name": name,
            "digest": digest,
            "entry": built.source.entry_point(),
            "source": built.source.digest()?,
            "base": built.base,
            "size": size,
            "outputs": places,
        }))?;
    } else {
        printer.data(digest.to_string());
        places
            .iter()
            .for_each(|place| printer.status(format!("{name}: {size} bytes in layers, written to {place}")));
    }
    Ok(Outcome::Success)
}

/// Pushes the image in the one way that there is, and says where it is.
fn push(job: &Job, image: &Image, to: &RegistryArguments) -> anyhow::Result<String> {
    let registry = to.open()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pushed = runtime.block_on(publish::publish(&registry, job, &Arc::new(Meter::default())));
    runtime.shutdown_background();
    let digest = pushed?.digest;
    if digest != image.descriptor().digest {
        anyhow::bail!("{} changed while it was built: start again", job.source.display());
    }
    Ok(Reference::by_digest(registry.host(), &job.repository, &digest).to_string())
}

/// Writes the image to one place and says which; nothing for what is no place.
fn write(
    output: &Output,
    image: &Image,
    name: &FunctionName,
    tags: &[Tag],
) -> anyhow::Result<Option<String>> {
    Ok(match output {
        Output::Json | Output::Text | Output::Registry => None,
        Output::Layout { folder, tag } => {
            let tags: Vec<&str> =
                tag.iter().chain(tags.iter().filter(|_| tag.is_none())).map(Tag::as_str).collect();
            Layout::create(folder)?.write_image(image, &tags)?;
            Some(format!("oci:{}:{}", folder.display(), tags.join(",")))
        }
        Output::DockerArchive(path) => {
            let names: Vec<String> = tags.iter().map(|tag| format!("fn/{name}:{}", tag.as_str())).collect();
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            // Under another name until it is whole.
            let file = tempfile::NamedTempFile::new_in(folder)
                .with_context(|| format!("create a file in {}", folder.display()))?;
            image::write_docker_archive(image, &names, BufWriter::with_capacity(1 << 20, file.as_file()))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            File::set_permissions(file.as_file(), mode)
                .with_context(|| format!("write {}", path.display()))?;
            file.persist(path).with_context(|| format!("write {}", path.display()))?;
            Some(format!("docker-archive:{}", path.display()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_places_or_formats() {
        let layout = |folder: &str, tag: Option<&str>| {
            Ok(Output::Layout { folder: folder.into(), tag: tag.map(|tag| tag.parse().unwrap()) })
        };
        assert_eq!("oci:out".parse(), layout("out", None));
        assert_eq!("oci:out:v1".parse(), layout("out", Some("v1")));
        assert_eq!("oci:a:b/c".parse(), layout("a:b/c", None));
        assert_eq!("docker-archive:f.tar".parse(), Ok(Output::DockerArchive("f.tar".into())));
        assert_eq!("json".parse(), Ok(Output::Json));
        assert_eq!("registry".parse(), Ok(Output::Registry));
        for text in ["", "oci", "oci:", "docker-archive:", "zip:x", "oci:out:-"] {
            assert!(text.parse::<Output>().is_err(), "{text}");
        }
    }
}
