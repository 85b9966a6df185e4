//! `fnbuild build SOURCE`: an image in a folder, a file, a registry, or the data folder, with no daemon of any kind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::image_flags::{ImageArguments, function_name};
use super::registry_flags::RegistryArguments;
use super::report::{self, LayerReport};
use super::requirements::RequirementArguments;
use super::{Common, Outcome, Printer};
use crate::function::FunctionName;
use crate::image::{self, Image, Index, Layout};
use crate::oci::{Descriptor, Reference, Tag};
use crate::publish::{self, Arrival, BuiltImage, Job, Meter};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild build func.zip\n\
    \x20 fnbuild build add/ -o docker-archive:add.tar\n\
    \x20 fnbuild build add/ --platform linux/amd64,linux/arm64 -o oci:images:v1")]
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

/// A place that the image went to.
#[derive(Serialize)]
struct Place {
    to: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerReport>,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
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
        platforms: arguments.image.platforms(),
        options: arguments.image.image_options(&name),
        tags,
    };
    let images = Images::of(publish::build(&job)?, &job)?;
    let mut times = vec![("build", begun.elapsed())];
    let places = place(arguments, &job, &name, &images, printer)?;
    times.push(("write", begun.elapsed() - times[0].1));
    times.push(("all", begun.elapsed()));
    images.built.iter().filter_map(|built| built.packages.as_ref()).for_each(|report| {
        report::explain_packages(report, printer);
    });
    let first = images.first()?;
    if arguments.output.contains(&Output::Json) {
        printer.json(&serde_json::json!({
            "name": name,
            "digest": images.descriptor().digest,
            "entry": first.source.entry_point(),
            "parameters": first.source.parameters(),
            "source": first.source.digest()?,
            "base": first.base,
            "size": images.size(),
            "outputs": places,
            "times": report::times(&times),
        }))?;
    } else {
        printer.data(images.descriptor().digest.to_string());
        for place in &places {
            printer.status(format!("{name}: {} bytes in layers, written to {}", images.size(), place.to));
            report::explain_layers(&place.layers, printer);
        }
    }
    report::explain_times(&times, printer);
    Ok(Outcome::Success)
}

/// One image, or one for each of several platforms and the index that names them.
struct Images {
    built: Vec<BuiltImage>,
    index: Option<Index>,
    descriptor: Descriptor,
}

impl Images {
    fn of(built: Vec<BuiltImage>, job: &Job) -> anyhow::Result<Self> {
        if let [only] = built.as_slice() {
            let descriptor = only.image.descriptor().clone();
            return Ok(Self { built, index: None, descriptor });
        }
        let entries = built.iter().zip(&job.platforms);
        let entries = entries.map(|(built, platform)| Descriptor {
            platform: Some(platform.clone()),
            ..built.image.descriptor().clone()
        });
        let index = Index::new(entries.collect(), job.options.annotations.clone())?;
        let descriptor = index.descriptor().clone();
        Ok(Self { built, index: Some(index), descriptor })
    }

    fn first(&self) -> anyhow::Result<&BuiltImage> {
        self.built.first().context("no platform was asked for")
    }

    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Of all layers, those that images share counted once.
    fn size(&self) -> u64 {
        let layers = self.built.iter().flat_map(|built| &built.image.manifest().layers);
        layers.map(|layer| (&layer.digest, layer.size)).collect::<BTreeMap<_, _>>().into_values().sum()
    }

    /// Into a layout, under these names.
    fn write(&self, layout: &Layout, names: &[&str]) -> anyhow::Result<Vec<LayerReport>> {
        let mut layers: Vec<(Descriptor, Arrival)> = Vec::new();
        for BuiltImage { image, .. } in &self.built {
            let of_one = if self.index.is_none() { names } else { &[] };
            let new = layout.write_image(image, of_one)?;
            for (layer, new) in image.manifest().layers.iter().zip(new) {
                if !layers.iter().any(|(known, _)| known.digest == layer.digest) {
                    layers.push((layer.clone(), if new { Arrival::Uploaded } else { Arrival::Present }));
                }
            }
        }
        if let Some(index) = &self.index {
            layout.write_blob(&index.descriptor().media_type, index.bytes())?;
            names.iter().try_for_each(|name| layout.tag(name, index.descriptor().clone()))?;
        }
        Ok(report::layers(&layers))
    }
}

/// Puts the image where it is to go; without a place into the data folder, under the function's name.
fn place(
    arguments: &Arguments,
    job: &Job,
    name: &FunctionName,
    images: &Images,
    printer: &Printer,
) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for output in &arguments.output {
        places.extend(match output {
            Output::Registry => Some(push(job, images, &arguments.registry, printer)?),
            other => write(other, images, name, &job.tags)?,
        });
    }
    if places.is_empty() {
        let folder = job.data.join("images");
        std::fs::create_dir_all(&job.data).with_context(|| format!("create {}", job.data.display()))?;
        let layers = images.write(&Layout::create(&folder)?, &[name.as_str()])?;
        places.push(Place { to: format!("oci:{}:{name}", folder.display()), layers });
    }
    Ok(places)
}

/// Pushes the image in the one way that there is, and says where it is.
fn push(job: &Job, images: &Images, to: &RegistryArguments, printer: &Printer) -> anyhow::Result<Place> {
    let registry = to.open(&job.data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pushed = runtime.block_on(publish::publish(&registry, job, &Arc::new(Meter::default())));
    runtime.shutdown_background();
    let pushed = pushed?;
    if pushed.digest != images.descriptor().digest {
        anyhow::bail!("{} changed while it was built: start again", job.source.display());
    }
    to.remember(&job.data, printer);
    let reference = Reference::by_digest(registry.host(), &job.repository, &pushed.digest);
    Ok(Place { to: reference.to_string(), layers: report::layers(&pushed.layers) })
}

/// Writes the image to one place and says which; nothing for what is no place.
fn write(
    output: &Output,
    images: &Images,
    name: &FunctionName,
    tags: &[Tag],
) -> anyhow::Result<Option<Place>> {
    Ok(match output {
        Output::Json | Output::Text | Output::Registry => None,
        Output::Layout { folder, tag } => {
            let tags: Vec<&str> =
                tag.iter().chain(tags.iter().filter(|_| tag.is_none())).map(Tag::as_str).collect();
            let layers = images.write(&Layout::create(folder)?, &tags)?;
            Some(Place { to: format!("oci:{}:{}", folder.display(), tags.join(",")), layers })
        }
        Output::DockerArchive(path) => {
            let [BuiltImage { image, .. }] = images.built.as_slice() else {
                anyhow::bail!(
                    "a docker archive holds an image of one platform: give one --platform, or oci:DIR"
                );
            };
            let names: Vec<String> = tags.iter().map(|tag| format!("fn/{name}:{}", tag.as_str())).collect();
            archive(image, &names, path)?;
            let new = image.manifest().layers.iter().map(|layer| (layer.clone(), Arrival::Uploaded));
            let layers = report::layers(&new.collect::<Vec<_>>());
            Some(Place { to: format!("docker-archive:{}", path.display()), layers })
        }
    })
}

fn archive(image: &Image, names: &[String], path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        anyhow::bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    // Under another name until it is whole, which nobody needs to know.
    let file = tempfile::NamedTempFile::new_in(folder)
        .map_err(|error| std::io::Error::from(error.kind()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    image::write_docker_archive(image, names, BufWriter::with_capacity(1 << 20, file.as_file()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    File::set_permissions(file.as_file(), mode).with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
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
