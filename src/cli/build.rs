//! `fnbuild build SOURCE`: an image in a folder, a file, or the data folder, with no daemon of any kind.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;

use super::{Common, Outcome, Printer};
use crate::function::{EntryPoint, FunctionName};
use crate::image::{self, Base, Image, Layout};
use crate::oci::Tag;
use crate::source::{Bounds, Source};

/// Make an image from a zip, a .py file or a folder
#[derive(clap::Args)]
pub struct Arguments {
    /// A .zip, a .py file or a folder
    source: PathBuf,
    /// The function's name [default: the source's, in lower case, _ as -]
    #[arg(long)]
    name: Option<FunctionName>,
    /// Where the image goes, or how the result is printed; may be given several times
    ///
    /// oci:DIR[:TAG] is an OCI image layout, docker-archive:FILE a tar for docker load and ctr images import; json and
    /// text say how the result is printed. Without a place the image is kept in the data folder, under its name.
    #[arg(short, long, value_name = "oci:DIR[:TAG]|docker-archive:FILE|json")]
    output: Vec<Output>,
    #[command(flatten)]
    image: ImageArguments,
}

/// What goes into an image beside the code.
#[derive(clap::Args)]
pub struct ImageArguments {
    /// The function that answers [default: func:run, or FILE:run for one .py]
    #[arg(long, value_name = "MODULE:FUNCTION")]
    pub entry: Option<EntryPoint>,
    /// The base image, by its name in the data folder
    #[arg(long, env = "FNBUILD_BASE", default_value = "python3.11-flask2.3")]
    pub base: String,
    /// A label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<Pair>,
    /// An annotation of the manifest
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<Pair>,
    /// A variable in the image's environment
    #[arg(long, value_name = "KEY=VALUE")]
    pub image_env: Vec<Pair>,
    /// A tag beside or instead of latest; may be given several times
    #[arg(long)]
    pub tag: Vec<Tag>,
    /// The time that the image says it was made at, in seconds since 1970 [default: 0, so that no digest depends on it]
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", hide = true)]
    pub epoch: Option<i64>,
    /// The most bytes of source
    #[arg(long, env = "FNBUILD_MAX_SOURCE", value_name = "BYTES", default_value_t = Bounds::default().source)]
    pub max_source: u64,
    /// The most bytes that it may unpack to
    #[arg(long, env = "FNBUILD_MAX_UNPACKED", value_name = "BYTES", default_value_t = Bounds::default().unpacked)]
    pub max_unpacked: u64,
    /// The most files and folders in it
    #[arg(long, env = "FNBUILD_MAX_ENTRIES", value_name = "N", default_value_t = Bounds::default().entries)]
    pub max_entries: usize,
}

/// `KEY=VALUE`.
#[derive(Clone, Debug)]
pub struct Pair(String, String);

impl FromStr for Pair {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !text.contains('\0') => {
                Ok(Self(key.into(), value.into()))
            }
            _ => Err("expected KEY=VALUE"),
        }
    }
}

/// One `-o`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Output {
    Json,
    Text,
    Layout { folder: PathBuf, tag: Option<Tag> },
    DockerArchive(PathBuf),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "json" => Ok(Self::Json),
            None if text == "text" => Ok(Self::Text),
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
            _ => Err("expected oci:DIR[:TAG], docker-archive:FILE or json".into()),
        }
    }
}

impl ImageArguments {
    pub fn source_options(&self) -> crate::source::Options {
        let (source, unpacked, entries) = (self.max_source, self.max_unpacked, self.max_entries);
        let bounds = Bounds { source, unpacked, entries, ..Bounds::default() };
        crate::source::Options { entry: self.entry.clone(), bounds }
    }

    pub fn image_options(&self, name: &FunctionName) -> image::Options {
        let pairs = |pairs: &[Pair]| {
            pairs.iter().map(|Pair(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
        };
        image::Options {
            name: Some(name.to_string()),
            labels: pairs(&self.label).into_iter().collect(),
            annotations: pairs(&self.annotation).into_iter().collect(),
            env: pairs(&self.image_env),
            epoch: self.epoch,
        }
    }
}

/// The name that was given, else the one that the source's own suggests.
pub fn function_name(given: Option<&FunctionName>, source: &Path) -> anyhow::Result<FunctionName> {
    if let Some(name) = given {
        return Ok(name.clone());
    }
    let path = std::fs::canonicalize(source).with_context(|| format!("open {}", source.display()))?;
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let stem = stem.unwrap_or_default().to_string_lossy();
    FunctionName::from_stem(&stem).context("the source's name is none for a function: give one with --name")
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let name = function_name(arguments.name.as_ref(), &arguments.source)?;
    let source = Arc::new(Source::open(&arguments.source, &arguments.image.source_options())?);
    let data = common.data_dir()?;
    let base = Base::open(&Layout::open(data.join("bases"))?, &arguments.image.base)?;
    let code = image::code_layer(&source);
    // The two digests of the code do not wait for each other.
    let image = std::thread::scope(|scope| {
        scope.spawn(|| code.descriptor());
        image::build(&base, &source, &code, &arguments.image.image_options(&name))
    })?;

    let tags = if arguments.image.tag.is_empty() { vec![Tag::latest()] } else { arguments.image.tag.clone() };
    let mut places = Vec::new();
    for output in &arguments.output {
        places.extend(write(output, &image, &name, &tags)?);
    }
    if places.is_empty() {
        let folder = data.join("images");
        std::fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
        Layout::create(&folder)?.write_image(&image, &[name.as_str()])?;
        places.push(format!("oci:{}:{name}", folder.display()));
    }
    let size: u64 = image.manifest().layers.iter().map(|layer| layer.size).sum();
    if arguments.output.contains(&Output::Json) {
        printer.json(&serde_json::json!({
            "name": name,
            "digest": image.descriptor().digest,
            "entry": source.entry_point(),
            "source": source.digest()?,
            "base": base.descriptor.digest,
            "size": size,
            "outputs": places,
        }))?;
    } else {
        printer.data(image.descriptor().digest.to_string());
        places
            .iter()
            .for_each(|place| printer.status(format!("{name}: {size} bytes in layers, written to {place}")));
    }
    Ok(Outcome::Success)
}

/// Writes the image to one place and says which; nothing for what is no place.
fn write(
    output: &Output,
    image: &Image,
    name: &FunctionName,
    tags: &[Tag],
) -> anyhow::Result<Option<String>> {
    Ok(match output {
        Output::Json | Output::Text => None,
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
        for text in ["", "oci", "oci:", "docker-archive:", "zip:x", "oci:out:-"] {
            assert!(text.parse::<Output>().is_err(), "{text}");
        }
    }
}
