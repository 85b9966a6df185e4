//! Files beside an image: `fnbuild push --attach` and `fnbuild describe`, with a registry that lists referrers itself and
//! with docker-registry, which needs the index under the subject's tag.

use fnbuild::oci::{Descriptor, Digest, ImageManifest, media_type};
use fnbuild::registry::{Access, Registry as Client};
use serde_json::{Value, json};

use crate::push::Home;
use crate::registry_kit::{Registry, program};
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{run, run_failing};

const SBOM: &str = "application/spdx+json";

fn pushed(home: &Home, registry: &str, attach: &[&str]) -> Value {
    let mut command = home.fnbuild(registry);
    command.args(["push", "func.py", "--name", "add", "--image-only", "-o", "json"]).args(attach);
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// Pushes an image with two files, one of them twice, and gives the image's digest and those of what was attached.
fn attach_twice(home: &Home, registry: &str) -> (Digest, [Digest; 2]) {
    home.write("sbom.json", r#"{"spdxVersion":"SPDX-2.3"}"#);
    home.write("signature", "");
    let sbom = ["--attach", "sbom.json", "--artifact-type", SBOM];
    let first = pushed(home, registry, &sbom);
    let again = pushed(home, registry, &sbom);
    let digest =
        |report: &Value| report["attached"][0]["digest"].as_str().unwrap().parse::<Digest>().unwrap();
    assert_eq!((digest(&first), first["attached"][0]["file"].as_str()), (digest(&again), Some("sbom.json")));
    let other = ["--attach", "signature", "--artifact-type", "application/vnd.example.signature"];
    let signed = pushed(home, registry, &other);
    assert_eq!(first["digest"], signed["digest"]);
    (first["digest"].as_str().unwrap().parse().unwrap(), [digest(&first), digest(&signed)])
}

/// The artifact leads to the image and to the file.
async fn assert_leads_to(registry: &Registry, artifact: &Digest, image: &Digest, content: &[u8]) {
    let url = registry.url(&format!("/v2/fn/add/manifests/{artifact}"));
    let got = registry.client.get(url).header("accept", media_type::MANIFEST).send().await.unwrap();
    let manifest: ImageManifest = serde_json::from_slice(&got.bytes().await.unwrap()).unwrap();
    assert_eq!(manifest.subject.unwrap().digest, *image);
    assert_eq!(manifest.config.media_type, media_type::EMPTY);
    let blob = registry.get(&format!("/v2/fn/add/blobs/{}", manifest.layers[0].digest)).await;
    assert_eq!(blob.bytes().await.unwrap(), content);
}

fn types(listed: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let of = |artifact: &Value| {
        (text(&artifact["artifactType"]), text(&artifact["annotations"]["org.opencontainers.image.title"]))
    };
    let mut types: Vec<_> = listed.as_array().unwrap().iter().map(of).collect();
    types.sort();
    types
}

fn both() -> Vec<(String, String)> {
    [(SBOM, "sbom.json"), ("application/vnd.example.signature", "signature")]
        .map(|(kind, file)| (kind.into(), file.into()))
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attached_is_listed_by_the_referrers_api() {
    let (home, data) = (Home::new(), tempfile::tempdir().unwrap());
    let (_server, address) = program(data.path(), &[]);
    let (image, [sbom, _]) = attach_twice(&home, &address);
    let registry = Registry::at(format!("http://{address}"));
    assert_leads_to(&registry, &sbom, &image, br#"{"spdxVersion":"SPDX-2.3"}"#).await;
    let listed: Value = registry.get(&format!("/v2/fn/add/referrers/{image}")).await.json().await.unwrap();
    assert_eq!(types(&listed["manifests"]), both());
    let tag = format!("/v2/fn/add/manifests/sha256-{}", image.hex());
    assert_eq!(registry.get(&tag).await.status(), 404, "no index by hand where the registry keeps one");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_that_api_it_is_listed_under_the_subjects_tag() {
    let (home, docker) = (Home::new(), DockerRegistry::start());
    let (image, [sbom, signature]) = attach_twice(&home, &docker.host());
    let registry = Registry::at(format!("http://{}", docker.host()));
    assert_eq!(registry.get(&format!("/v2/fn/add/referrers/{image}")).await.status(), 404);
    assert_leads_to(&registry, &sbom, &image, br#"{"spdxVersion":"SPDX-2.3"}"#).await;
    let tag = format!("/v2/fn/add/manifests/sha256-{}", image.hex());
    let request = registry.client.get(registry.url(&tag)).header("accept", media_type::INDEX);
    let listed: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(types(&listed["manifests"]), both());

    let client = Client::new(&docker.host(), Access::default()).unwrap();
    let repository = "fn/add".parse().unwrap();
    let found = client.referrers(&repository, &image).await.unwrap();
    assert_eq!(found.iter().map(|artifact| &artifact.digest).collect::<Vec<_>>(), [&sbom, &signature]);
    client.delete_referrers(&repository, &image).await.unwrap();
    assert!(client.referrers(&repository, &image).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_under_a_tag_grows_and_nothing_else_is_written_over() {
    let docker = DockerRegistry::start();
    let registry = Registry::at(format!("http://{}", docker.host()));
    let image = registry.push_image("fn/add", "latest", b"layer").await;
    let subject = Descriptor::new(media_type::MANIFEST, image.clone(), 1);
    let config = Descriptor::of(media_type::EMPTY, b"{}");
    let client = || Client::new(&docker.host(), Access::default()).unwrap();
    let repository = "fn/add".parse().unwrap();
    for number in 0..3 {
        let mut manifest = ImageManifest::new(config.clone(), Vec::new());
        manifest.artifact_type = Some(format!("application/vnd.example.n{number}"));
        client().push_referrer(&repository, &subject, manifest).await.unwrap();
    }
    assert_eq!(client().referrers(&repository, &image).await.unwrap().len(), 3);
    // What stands under the tag is no list: that is said, and nothing is written over.
    let tag = format!("sha256-{}", Digest::of("other").hex());
    registry.push_image("fn/add", &tag, b"layer").await;
    let other = Descriptor::new(media_type::MANIFEST, Digest::of("other"), 1);
    let refused = client().push_referrer(&repository, &other, ImageManifest::new(config, Vec::new())).await;
    assert!(refused.unwrap_err().to_string().contains("an image stands where"), "{tag}");
}

#[test]
fn what_cannot_be_attached_is_told() {
    let (home, data) = (Home::new(), tempfile::tempdir().unwrap());
    let (_server, address) = program(data.path(), &[]);
    let failing = |more: &[&str], code| {
        let mut command = home.fnbuild(&address);
        command.args(["push", "func.py", "--name", "add", "--image-only"]).args(more);
        run_failing(&mut command, code)
    };
    assert!(failing(&["--attach", "func.py"], 2).contains("--artifact-type"));
    assert!(failing(&["--artifact-type", SBOM], 2).contains("--attach"));
    assert!(failing(&["--attach", "func.py", "--artifact-type", "sbom"], 2).contains("is no media type"));
    let missing = failing(&["--attach", "absent", "--artifact-type", SBOM], 1);
    assert!(missing.contains("read absent to attach it") && missing.contains("No such file"), "{missing}");
    let folder = failing(&["--attach", ".", "--artifact-type", SBOM], 1);
    assert!(folder.contains("to attach it"), "{folder}");
}

#[test]
fn describe_lists_what_is_attached_and_delete_takes_it_along() {
    let data = tempfile::tempdir().unwrap();
    let (_registry, embedded) = program(data.path(), &[]);
    // The server's own docker-registry first.
    for more in [vec![], vec!["--registry", embedded.as_str()]] {
        let server = FnbuildServer::start_with(&more);
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        let verb = |arguments: &[&str]| {
            let mut command = server.command();
            command.args(arguments);
            if arguments[0] == "push" {
                command.args(&more);
            }
            run(&mut command)
        };
        let path = file.path().to_str().unwrap();
        verb(&["push", "examples/add", "--attach", path, "--artifact-type", SBOM]);
        let described: Value = serde_json::from_str(&verb(&["describe", "add", "-o", "json"])).unwrap();
        assert_eq!(types(&described["attached"]), [(SBOM.to_string(), name.to_string())]);
        let text = verb(&["describe", "add"]);
        assert!(text.contains("ATTACHED") && text.contains(SBOM) && text.contains(name), "{text}");
        assert_eq!(described["digest"].as_str().map(|digest| text.contains(digest)), Some(true));
        verb(&["delete", "add", "--images"]);
        let host = more.last().map_or_else(|| server.registry().host(), ToString::to_string);
        let artifact = described["attached"][0]["digest"].as_str().unwrap();
        let url = format!("http://{host}/v2/fn/add/manifests/{artifact}");
        let mut curl = std::process::Command::new("curl");
        assert_eq!(run(curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])), "404");
    }
}

#[test]
fn describe_goes_on_while_the_registry_is_away() {
    let data = tempfile::tempdir().unwrap();
    let (mut registry, address) = program(data.path(), &[]);
    let server = FnbuildServer::start_with(&["--registry", &address]);
    run(server.command().args(["push", "examples/add", "--registry", &address]));
    registry.kill();
    let output = server.command().args(["describe", "add", "-o", "json"]).output().unwrap();
    let (told, described) =
        (String::from_utf8_lossy(&output.stderr), serde_json::from_slice::<Value>(&output.stdout).unwrap());
    assert!(output.status.success() && told.contains("what is attached to the image is not known"), "{told}");
    assert_eq!((&described["version"], described.get("attached")), (&json!(1), None));
}
