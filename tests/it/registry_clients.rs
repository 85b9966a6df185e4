//! Debian's clients in both directions: docker, ctr, skopeo, buildah, podman, umoci; with and without users and TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fnbuild::oci::Digest;

use crate::registry_kit::{Registry, program, random};
use crate::support::{Server, run, wait_until};

/// A registry with users, a certificate, both or none.
struct Served {
    _server: Server,
    address: String,
    folder: tempfile::TempDir,
    auth: bool,
    tls: bool,
}

const VARIANTS: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

impl Served {
    fn start(auth: bool, tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        let mut more = Vec::new();
        if auth {
            run(Command::new("htpasswd").args(["-cbB", &path("htpasswd"), "ann", "secret"]));
            more.extend(["--htpasswd".to_string(), path("htpasswd")]);
        }
        if tls {
            run(Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args([
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=localhost",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                ])
                .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")]));
            more.extend(["--tls-cert".into(), path("cert.pem"), "--tls-key".into(), path("key.pem")]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let (server, address) = program(&folder.path().join("data"), &more);
        Self { _server: server, address, folder, auth, tls }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An OCI layout with one small image, made by umoci.
    fn layout(&self) -> String {
        let layout = self.path("layout");
        run(Command::new("umoci").args(["init", "--layout"]).arg(&layout));
        let image = format!("{}:image", layout.display());
        run(Command::new("umoci").args(["new", "--image", &image]));
        let file = self.path("file");
        std::fs::write(&file, random(5000)).unwrap();
        run(Command::new("umoci").args(["insert", "--rootless", "--image", &image]).arg(&file).arg("/file"));
        image
    }

    fn skopeo(&self, verb: &str) -> Command {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", verb]);
        command
    }

    fn credentials(&self, command: &mut Command, flag: &str) {
        if self.auth {
            command.args([flag, "ann:secret"]);
        }
    }

    fn skopeo_one(&self, verb: &str, more: &[&str]) -> String {
        let mut command = self.skopeo(verb);
        command.arg("--tls-verify=false");
        self.credentials(&mut command, "--creds");
        run(command.args(more))
    }
}

#[test]
fn skopeo_and_umoci_copy_inspect_list_sync_and_delete() {
    for (auth, tls) in VARIANTS {
        let served = Served::start(auth, tls);
        let (image, remote) = (served.layout(), format!("docker://{}/skopeo/one", served.address));
        let mut copy = served.skopeo("copy");
        copy.arg("--dest-tls-verify=false");
        served.credentials(&mut copy, "--dest-creds");
        run(copy.args([&format!("oci:{image}"), &format!("{remote}:a")]));
        let mut again = served.skopeo("copy");
        again.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        served.credentials(&mut again, "--src-creds");
        served.credentials(&mut again, "--dest-creds");
        run(again.args([&format!("{remote}:a"), &format!("docker://{}/skopeo/two:b", served.address)]));
        assert!(served.skopeo_one("list-tags", &[&remote]).contains("\"a\""));
        let digest = served.skopeo_one("inspect", &["--format", "{{.Digest}}", &format!("{remote}:a")]);
        // Back into a layout, and unpacked by umoci.
        let back = served.path("back");
        let mut pull = served.skopeo("copy");
        pull.arg("--src-tls-verify=false");
        served.credentials(&mut pull, "--src-creds");
        run(pull.arg(format!("{remote}@{digest}")).arg(format!("oci:{}:image", back.display())));
        let bundle = served.path("bundle");
        run(Command::new("umoci")
            .args(["unpack", "--rootless", "--image", &format!("{}:image", back.display())])
            .arg(&bundle));
        let (sent, got) =
            (std::fs::read(served.path("file")).unwrap(), std::fs::read(bundle.join("rootfs/file")).unwrap());
        assert_eq!(Digest::of(sent), Digest::of(got));
        let mut sync = served.skopeo("sync");
        sync.args(["--src", "docker", "--dest", "dir", "--src-tls-verify=false"]);
        served.credentials(&mut sync, "--src-creds");
        run(sync.arg(format!("{}/skopeo/one", served.address)).arg(served.path("synced")));
        assert!(served.path("synced/one:a/manifest.json").exists());
        served.skopeo_one("delete", &[&format!("{remote}:a")]);
        assert!(!served.skopeo_one("list-tags", &[&remote]).contains("\"a\""));
    }
}

#[test]
fn buildah_and_podman_push_and_pull() {
    for (auth, tls) in VARIANTS {
        let served = Served::start(auth, tls);
        let image = served.layout();
        for client in ["buildah", "podman"] {
            let call = |arguments: &[&str]| {
                let mut command = Command::new(client);
                let (root, runroot) =
                    (served.path(&format!("{client}-root")), served.path(&format!("{client}-run")));
                command.args(["--storage-driver", "vfs", "--root"]).arg(root).arg("--runroot").arg(runroot);
                run(command.args(arguments))
            };
            let creds = if served.auth { vec!["--creds", "ann:secret"] } else { Vec::new() };
            let (seed, remote) = (
                format!("{}/{client}/seed:t", served.address),
                format!("{}/{client}/image:t", served.address),
            );
            let mut copy = served.skopeo("copy");
            copy.arg("--dest-tls-verify=false");
            served.credentials(&mut copy, "--dest-creds");
            run(copy.arg(format!("oci:{image}")).arg(format!("docker://{seed}")));
            let remote = format!("docker://{remote}");
            call(&[&["pull", "--quiet", "--tls-verify=false"], &creds[..], &[&seed]].concat());
            call(&[&["push", "--quiet", "--tls-verify=false"], &creds[..], &[&seed, &remote]].concat());
            call(&["rmi", "--all", "--force"]);
            call(&[&["pull", "--quiet", "--tls-verify=false"], &creds[..], &[&remote]].concat());
            let digest = served.skopeo_one("inspect", &["--format", "{{.Digest}}", &remote]);
            assert!(digest.starts_with("sha256:"), "{digest}");
        }
    }
}

#[test]
fn docker_pushes_and_pulls() {
    for auth in [false, true] {
        let served = Served::start(auth, false);
        let home = served.path("docker");
        let docker =
            |arguments: &[&str]| run(Command::new("docker").arg("--config").arg(&home).args(arguments));
        if auth {
            docker(&["login", "--username", "ann", "--password", "secret", &served.address]);
        }
        let remote = format!("{}/docker/image:t", served.address);
        let archive = served.path("root.tar");
        std::fs::write(served.path("content"), random(3000)).unwrap();
        run(Command::new("tar").arg("-C").arg(served.folder.path()).arg("-cf").arg(&archive).arg("content"));
        docker(&["import", archive.to_str().unwrap(), &remote]);
        let pushed = docker(&["push", &remote]);
        docker(&["rmi", &remote]);
        docker(&["pull", &remote]);
        let digests = docker(&["image", "inspect", "--format", "{{.RepoDigests}}", &remote]);
        docker(&["rmi", &remote]);
        let digest = digests.split_once('@').unwrap().1.trim_end_matches(']');
        assert!(pushed.contains(digest), "{pushed}");
    }
}

#[test]
fn ctr_pushes_and_pulls() {
    for (auth, tls) in VARIANTS {
        let served = Served::start(auth, tls);
        let namespace = format!("fnbuild-registry-{}", std::process::id());
        let ctr =
            |arguments: &[&str]| run(Command::new("ctr").args(["--namespace", &namespace]).args(arguments));
        let _cleaned = Namespace(&namespace);
        // To a loopback address ctr speaks TLS only when a hosts.toml says so.
        let hosts = served.path("hosts");
        let folder = hosts.join(&served.address);
        std::fs::create_dir_all(&folder).unwrap();
        let (server, skip) = (format!("https://{}", served.address), "skip_verify = true");
        let text = format!("server = \"{server}\"\n{skip}\n[host.\"{server}\"]\n{skip}\n");
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        let plain: &[&str] = if tls { &["--hosts-dir", hosts.to_str().unwrap()] } else { &["--plain-http"] };
        let user: &[&str] = if auth { &["--user", "ann:secret"] } else { &[] };
        let archive = served.path("image.tar");
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", &format!("oci:{}", served.layout())])
            .arg(format!("oci-archive:{}:image", archive.display())));
        let remote = format!("{}/ctr/image:t", served.address);
        ctr(&["images", "import", "--no-unpack", "--index-name", &remote, archive.to_str().unwrap()]);
        ctr(&[&["images", "push"], plain, user, &[&remote]].concat());
        ctr(&["images", "rm", "--sync", &remote]);
        ctr(&[&["images", "pull"], plain, user, &[&remote]].concat());
        assert!(ctr(&["images", "ls", "-q"]).contains(&remote));
    }
}

/// Leaves nothing in containerd.
struct Namespace<'a>(&'a str);

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let ctr =
            |arguments: &[&str]| Command::new("ctr").args(["--namespace", self.0]).args(arguments).output();
        if let Ok(images) = ctr(&["images", "ls", "-q"]) {
            for image in String::from_utf8_lossy(&images.stdout).lines() {
                let _ = ctr(&["images", "rm", "--sync", image]);
            }
        }
        let _ = ctr(&["namespaces", "rm", self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_gets_nothing() {
    let served = Served::start(true, false);
    let registry = Registry::at(format!("http://{}", served.address));
    for path in ["/v2/", "/v2/_catalog", "/metrics", "/v2/a/tags/list"] {
        let refused = registry.get(path).await;
        assert_eq!(refused.status(), 401, "{path}");
        assert!(crate::registry_kit::header(&refused, "www-authenticate").starts_with("Basic realm="));
        let known =
            registry.client.get(registry.url(path)).basic_auth("ann", Some("secret")).send().await.unwrap();
        assert_ne!(known.status(), 401, "{path}");
        let wrong =
            registry.client.get(registry.url(path)).basic_auth("ann", Some("guess")).send().await.unwrap();
        assert_eq!(wrong.status(), 401);
    }
    assert!(!served.tls && registry.get("/healthz").await.status().is_success());
}

#[test]
fn beyond_this_machine_only_with_users_or_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::support::fnbuild();
    command.args(["registry", "serve", "--listen", "0.0.0.0:0", "--data-dir"]).arg(folder.path());
    let error = crate::support::run_failing(&mut command, 1);
    assert!(error.contains("--htpasswd") && error.contains("--no-auth"), "{error}");
}

/// docker-registry as the registry that is mirrored.
fn upstream(folder: &Path) -> (Server, String) {
    let port = crate::support::free_port();
    let config = folder.join("upstream.yml");
    let storage = folder.join("upstream");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        storage.display()
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(Command::new("docker-registry").arg("serve").arg(&config));
    let address = format!("127.0.0.1:{port}");
    wait_until("docker-registry's port", Duration::from_secs(20), || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    (server, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_fetches_verifies_keeps_and_serves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, address) = upstream(folder.path());
    let behind = Registry::at(format!("http://{address}"));
    let (old, new) = (random(50_000), random(2_000_000));
    let first = behind.push_image("team/app", "latest", &old).await;
    let mirror = crate::registry_kit::start(|config| config.mirror = Some(format!("http://{address}"))).await;
    let digest_of =
        |response: reqwest::Response| crate::registry_kit::header(&response, "docker-content-digest");
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), first.to_string());
    let blob = mirror.get(&format!("/v2/team/app/blobs/{}", Digest::of(&old))).await;
    assert_eq!(blob.bytes().await.unwrap(), old);
    // A tag that moved is noticed.
    let second = behind.push_image("team/app", "latest", &new).await;
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), second.to_string());
    // Many at once, one transfer, and not a wrong byte.
    let path = format!("/v2/team/app/blobs/{}", Digest::of(&new));
    let pulls = futures_util::future::join_all((0..8).map(|_| mirror.get(&path))).await;
    for pull in pulls {
        assert_eq!(pull.bytes().await.unwrap(), new);
    }
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{}", Digest::of("nowhere"))).await.status(), 404);
    // A damaged blob upstream is not taken.
    let bad = behind.push_blob("team/app", &random(40_000)).await;
    let stored = folder.path().join("upstream/docker/registry/v2/blobs/sha256");
    std::fs::write(stored.join(&bad.hex()[..2]).join(bad.hex()).join("data"), random(40_000)).unwrap();
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{bad}")).await.status(), 502);
    source.kill();
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), second.to_string());
    assert_eq!(mirror.get(&format!("/v2/team/app/manifests/{first}")).await.status(), 200);
    assert_eq!(mirror.get(&path).await.bytes().await.unwrap(), new);
    assert_eq!(mirror.get("/v2/team/app/manifests/unknown").await.status(), 502);
}
