//! `fnbuild push` and what is behind it, against real registries and misbehaving ones.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fnbuild::image::{Image, LayerWriter, Layout, Level};
use fnbuild::oci::{Digest, ImageConfig, Platform, Repository, Tag};
use fnbuild::publish::{Arrival, Job, Meter, PublishError, PushedImage, publish};
use fnbuild::registry::{Access, Login, Patience, Registry, Secret};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::faulty::{Fault, Proxy};
use crate::support::registry::{DockerRegistry, PASSWORD, TokenServer, USER, free_address};
use crate::support::{fnbuild, run, run_failing, wait_until};

const BASE: &str = "python3.11-flask2.3";
const ADD: &str = "def run(x, y):\n    return x + y\n";

/// A data folder with a small base of three layers, and a source.
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path().join("data/bases")).unwrap();
        let layers = ["os", "flask", "runtime"].map(|name| {
            let mut writer = LayerWriter::new(layout.blob_writer().unwrap(), Level::Fast, 0);
            let content = name.repeat(1000);
            writer
                .file(&format!("base-{name}"), 0o644, content.len() as u64, &mut content.as_bytes())
                .unwrap();
            let (written, blob) = writer.finish().unwrap();
            blob.commit_as(&written.descriptor).unwrap();
            layout.layer(written.descriptor, written.diff_id)
        });
        let platform = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        let config = ImageConfig { platform, ..ImageConfig::default() };
        let image = Image::new(config, layers.to_vec(), Default::default()).unwrap();
        layout.write_image(&image, &[BASE]).unwrap();
        let home = Self { dir };
        home.write("func.py", ADD);
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The program, with this data folder and a docker configuration of its own.
    pub fn fnbuild(&self, registry: &str) -> Command {
        let mut command = fnbuild();
        command.env("FNBUILD_DATA_DIR", self.path("data")).env("FNBUILD_REGISTRY", registry);
        command.env("DOCKER_CONFIG", self.path("docker")).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn push(&self, registry: &str) -> Value {
        let mut command = self.fnbuild(registry);
        let text = run(command.args(["push", "func.py", "--image-only", "-o", "json"]));
        serde_json::from_str(&text).unwrap()
    }

    fn job(&self, repository: &str) -> Job {
        Job {
            source: self.path("func.py"),
            from: Default::default(),
            base: BASE.into(),
            data: self.path("data"),
            repository: repository.parse().unwrap(),
            platforms: Vec::new(),
            options: Default::default(),
            packages: fnbuild::publish::Packages::of_this_process(&self.path("data")),
            tags: vec![Tag::latest()],
        }
    }

    async fn publish(&self, host: &str, repository: &str) -> Result<PushedImage, PublishError> {
        let patience = Patience { backoff: Duration::from_millis(5), ..Patience::default() };
        let registry = Registry::new(host, Access { patience, ..Access::default() }).unwrap();
        publish(&registry, &self.job(repository), &Arc::new(Meter::default())).await
    }
}

/// Everything of the image is there and is what it says it is.
async fn assert_whole(server: &DockerRegistry, repository: &str, digest: &Digest) {
    let registry = Registry::new(&server.host(), Access::default()).unwrap();
    let repository: Repository = repository.parse().unwrap();
    let tagged = registry.head_manifest(&repository, &Tag::latest()).await.unwrap().unwrap();
    assert_eq!(tagged.digest, *digest);
    let platform = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
    let image = registry.pull_image(&repository, digest, &platform).await.unwrap();
    assert_eq!(image.image.layers.len(), 4);
    for layer in &image.image.layers {
        registry.pull_blob_to(&repository, layer, &mut std::io::sink()).await.unwrap();
    }
}

fn arrivals(pushed: &PushedImage) -> Vec<Arrival> {
    pushed.layers.iter().map(|(_, arrival)| *arrival).collect()
}

#[test]
fn a_pushed_function_is_pulled_by_skopeo() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let report = home.push(&server.host());
    assert_eq!(report["reference"], format!("{}/fn/func:latest", server.host()));
    let to = home.path("pulled");
    let from = format!("docker://{}", report["reference"].as_str().unwrap());
    run(Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false", "--preserve-digests", &from])
        .arg(format!("oci:{}:x", to.display())));
    let pulled = Layout::open(&to).unwrap().resolve("x").unwrap();
    assert_eq!(pulled.digest.to_string(), report["digest"].as_str().unwrap());
}

#[test]
fn the_same_source_is_the_same_image_everywhere_and_said_to_be_unchanged() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let first = home.push(&server.host());
    let again = home.push(&server.host());
    assert_eq!((&first["unchanged"], &again["unchanged"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(first["digest"], again["digest"]);
    let (elsewhere, other) = (Home::new(), DockerRegistry::start());
    assert_eq!(elsewhere.push(&other.host())["digest"], first["digest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_push_is_one_request_and_a_changed_one_sends_only_what_is_new() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let proxy = Proxy::before(server.address, |_, _| None).await;
    let first = home.publish(&proxy.host(), "fn/add").await.unwrap();
    assert_eq!(arrivals(&first), [Arrival::Uploaded; 4]);
    assert_whole(&server, "fn/add", &first.digest).await;

    let before = proxy.seen().len();
    assert!(home.publish(&proxy.host(), "fn/add").await.unwrap().unchanged);
    let seen = proxy.seen();
    assert_eq!(seen.len() - before, 1);
    assert!(seen.last().unwrap().is("HEAD", "/manifests/latest"));

    home.write("func.py", "def run():\n    return 2\n");
    let before = proxy.seen().len();
    let changed = home.publish(&proxy.host(), "fn/add").await.unwrap();
    let mut methods: Vec<_> = proxy.seen()[before..].iter().map(|seen| seen.method.clone()).collect();
    methods.sort();
    assert_eq!(
        methods,
        ["HEAD", "POST", "POST", "PUT", "PUT", "PUT"],
        "no HEAD for the base, one for the tag"
    );
    assert_whole(&server, "fn/add", &changed.digest).await;

    let second = home.publish(&proxy.host(), "fn/second").await.unwrap();
    let mounted = [Arrival::Mounted, Arrival::Mounted, Arrival::Mounted, Arrival::Uploaded];
    assert_eq!(arrivals(&second), mounted);
    assert_whole(&server, "fn/second", &second.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_moved_is_moved_back() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let first = home.publish(&server.host(), "fn/add").await.unwrap();
    home.write("func.py", "def run():\n    return 2\n");
    home.publish(&server.host(), "fn/add").await.unwrap();
    home.write("func.py", ADD);
    let back = home.publish(&server.host(), "fn/add").await.unwrap();
    assert_eq!((back.unchanged, &back.digest), (false, &first.digest));
    assert_whole(&server, "fn/add", &first.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_mounts_gets_the_base_uploaded() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let proxy = Proxy::before(server.address, |seen, _| {
        // What a registry does that does not know the parameter: it opens an upload.
        seen.path
            .contains("mount=")
            .then(|| Fault::Answer(202, vec![("location", "/v2/fn/add/blobs/uploads/lost".into())], ""))
    })
    .await;
    let pushed = home.publish(&proxy.host(), "fn/add").await.unwrap();
    assert_eq!(arrivals(&pushed), [Arrival::Uploaded; 4]);
    assert_whole(&server, "fn/add", &pushed.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_incomplete_manifests_gets_complete_ones() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    // Acknowledges a manifest that it has not stored, as one that checks nothing would.
    let proxy = Proxy::before(server.address, |seen, _| {
        (seen.method == "PUT" && seen.path.contains("manifests/sha256"))
            .then(|| Fault::Answer(201, vec![], ""))
    })
    .await;
    let pushed = home.publish(&proxy.host(), "fn/add").await.unwrap();
    assert_whole(&server, "fn/add", &pushed.digest).await;
    // It has not been seen to refuse, so it is asked every time.
    home.write("func.py", "def run():\n    return 2\n");
    let before = proxy.count("HEAD", "/fn/add/blobs/");
    home.publish(&proxy.host(), "fn/add").await.unwrap();
    assert_eq!(proxy.count("HEAD", "/fn/add/blobs/") - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_tag_is_put_again_and_a_registry_that_keeps_forgetting_is_an_error() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let forgets = |times: usize| {
        move |seen: &crate::support::faulty::Seen, before: usize| {
            let tag = seen.is("PUT", "/manifests/latest");
            (tag && before < times).then(|| Fault::Answer(201, vec![], ""))
        }
    };
    let once = Proxy::before(server.address, forgets(2)).await;
    let pushed = home.publish(&once.host(), "fn/add").await.unwrap();
    assert_whole(&server, "fn/add", &pushed.digest).await;
    let always = Proxy::before(server.address, forgets(usize::MAX)).await;
    let failed = home.publish(&always.host(), "fn/other").await.unwrap_err();
    assert!(matches!(failed, PublishError::TagForgotten { .. }), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_gets_through_errors_broken_connections_and_lost_uploads() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let proxy = Proxy::before(server.address, |seen, before| match (seen.method.as_str(), before) {
        ("POST", 0) => Some(Fault::Answer(503, vec![("retry-after", "0".into())], "")),
        ("POST", 2) => Some(Fault::Hangup(0)),
        ("PUT", 0) => Some(Fault::Answer(404, vec![], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)),
        ("PUT", 3) => Some(Fault::LoseAnswer),
        ("PUT", 5) => Some(Fault::Answer(429, vec![], "")),
        _ => None,
    })
    .await;
    let pushed = home.publish(&proxy.host(), "fn/add").await.unwrap();
    assert_whole(&server, "fn/add", &pushed.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_push_keeps_to_two_connections() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let proxy = Proxy::before(server.address, |_, _| None).await;
    home.push(&proxy.host());
    home.write("func.py", "def run():\n    return 2\n");
    let before = proxy.connections();
    home.push(&proxy.host());
    assert_eq!(proxy.connections() - before, 2, "layer and config side by side");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_killed_is_whole_when_it_is_done_again() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    for victim in ["/fn/func/blobs/uploads/", "/fnbuild/base/blobs/uploads/", "/manifests/"] {
        home.write("func.py", &format!("def run():\n    return {victim:?}\n"));
        let proxy =
            Proxy::before(server.address, move |seen, _| seen.is("PUT", victim).then_some(Fault::Deaf));
        let proxy = proxy.await;
        let mut push = home.fnbuild(&proxy.host());
        let mut push = push.args(["push", "func.py", "--image-only"]).spawn().unwrap();
        wait_until("the push to be in the middle", Duration::from_secs(30), || {
            proxy.seen().iter().any(|seen| seen.is("PUT", victim))
        });
        push.kill().unwrap();
        push.wait().unwrap();
        let report = home.push(&server.host());
        assert_whole(&server, "fn/func", &report["digest"].as_str().unwrap().parse().unwrap()).await;
        // The next victim is to find nothing there again.
        std::fs::remove_dir_all(server.dir.path().join("data/docker")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_tokens_gets_a_whole_image() {
    let tokens = TokenServer::start().await;
    let (home, server) = (Home::new(), DockerRegistry::with_tokens(&tokens));
    let login = Login::Password { user: USER.into(), password: Secret::new(PASSWORD) };
    let registry = Registry::with_login(&server.host(), Access::default(), login).unwrap();
    for (repository, arrival) in [("fn/add", Arrival::Uploaded), ("fn/second", Arrival::Mounted)] {
        let pushed = publish(&registry, &home.job(repository), &Arc::new(Meter::default())).await.unwrap();
        assert_eq!(arrivals(&pushed)[0], arrival);
        let repository = repository.parse().unwrap();
        let found = registry.head_manifest(&repository, &Tag::latest()).await.unwrap().unwrap();
        assert_eq!(found.digest, pushed.digest);
    }
}

#[test]
fn login_is_kept_used_and_forgotten_and_never_shown() {
    let (home, server) = (Home::new(), DockerRegistry::with_htpasswd());
    let host = server.host();
    let refused = run_failing(home.fnbuild(&host).args(["push", "func.py", "--image-only"]), 1);
    assert!(refused.contains(&format!("fnbuild login {host}")), "{refused}");
    let login = |password: &str| {
        let mut command = home.fnbuild(&host);
        command.args(["login", &host, "--username", USER, "--password-stdin", "-vv"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let wrong = login("battery staple");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("battery"));
    assert!(!home.path("docker/config.json").exists());
    assert!(login(&format!("{PASSWORD}\n")).status.success());
    home.push(&host);
    run(home.fnbuild(&host).args(["logout", &host]));
    home.write("func.py", "def run(): pass\n");
    run_failing(home.fnbuild(&host).args(["push", "func.py", "--image-only"]), 1);
}

#[test]
fn credentials_come_from_a_helper_too() {
    use std::os::unix::fs::PermissionsExt;
    let (home, server) = (Home::new(), DockerRegistry::with_htpasswd());
    let host = server.host();
    let helper = home.path("docker-credential-test");
    let answer = format!(r#"{{"ServerURL":"{host}","Username":"{USER}","Secret":"{PASSWORD}"}}"#);
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho asked >>'{}'\necho '{answer}'\n",
        home.path("asked").display()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(home.path("docker")).unwrap();
    home.write("docker/config.json", &format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#));
    let path = format!("{}:{}", home.dir.path().display(), std::env::var("PATH").unwrap());
    run(home.fnbuild(&host).env("PATH", path).args(["push", "func.py", "--image-only"]));
    assert_eq!(std::fs::read_to_string(home.path("asked")).unwrap(), "asked\n", "asked once");
}

#[test]
fn tls_by_a_private_ca_is_trusted_where_it_is_named() {
    let home = Home::new();
    let (server, ca) = DockerRegistry::with_tls();
    let host = format!("localhost:{}", server.address.port());
    let push = ["push", "func.py", "--image-only"];
    run(home.fnbuild(&host).args(push).arg("--registry-ca").arg(&ca));
    home.write("func.py", "def run(): pass\n");
    run(home.fnbuild(&host).args(push).arg("--insecure"));
}

#[test]
fn a_registry_that_is_away_is_one_clear_error_with_the_next_step() {
    let home = Home::new();
    let address = free_address().to_string();
    let said = run_failing(home.fnbuild(&address).args(["push", "func.py", "--image-only"]), 1);
    assert!(said.contains(&format!("connect to {address}")) && said.contains("hint: "), "{said}");
}

#[test]
fn without_a_server_the_image_is_pushed_and_the_error_says_so() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let away = format!("http://{}", free_address());
    let said = run_failing(home.fnbuild(&server.host()).args(["push", "func.py", "--server", &away]), 1);
    assert!(
        said.contains("is pushed") && said.contains("--image-only") && said.contains("fnbuild serve"),
        "{said}"
    );
    let tags = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{}", said.split_whitespace().find(|word| word.contains("/fn/func@")).unwrap()))
        .output()
        .unwrap();
    assert!(tags.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sees_a_bar_and_a_pipe_does_not() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    for (terminal, name) in [(true, "fn-terminal"), (false, "fn-pipe")] {
        // The first answer comes a second late, so that there is something to wait for.
        let late = |seen: &crate::support::faulty::Seen, before: usize| {
            let first = seen.method == "POST" && before == 0;
            first.then(|| Fault::Answer(429, vec![("retry-after", "1".into())], ""))
        };
        let proxy = Proxy::before(server.address, late).await;
        let mut push = home.fnbuild(&proxy.host());
        let arguments = ["push", "func.py", "--image-only", "--name", name];
        if terminal {
            // `script` gives its command a terminal, and hands on what was written there.
            let command = format!("{} {}", push.get_program().display(), arguments.join(" "));
            let mut script = Command::new("script");
            script.args(["-qec", &command, "/dev/null"]).current_dir(home.path("")).stdin(Stdio::null());
            script.envs(push.get_envs().filter_map(|(key, value)| Some((key, value?))));
            push = script;
        } else {
            push.args(arguments);
        }
        let output = tokio::task::spawn_blocking(move || push.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let shown = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&shown).contains("B/s"), terminal, "{name}");
    }
}

#[test]
fn several_tags_stand_for_one_image() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let host = server.host();
    run(home.fnbuild(&host).args(["push", "func.py", "--image-only", "--tag", "a", "--tag", "b"]));
    let digest = |tag: &str| {
        let reference = format!("docker://{host}/fn/func:{tag}");
        run(Command::new("skopeo").args([
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &reference,
        ]))
    };
    assert_eq!(digest("a"), digest("b"));
}

#[test]
fn what_is_refused_is_refused_before_anything_is_pushed() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    home.write("broken.zip", "this is no zip");
    run_failing(home.fnbuild(&server.host()).args(["push", "broken.zip", "--image-only"]), 1);
    run_failing(
        home.fnbuild(&server.host()).args(["push", "func.py", "--entry", "other:run", "--image-only"]),
        1,
    );
    assert!(!Path::new(&server.dir.path().join("data/docker/registry/v2/repositories/fn")).exists());
}
