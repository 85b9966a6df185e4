//! Debian's clients in both directions: docker, ctr, skopeo, buildah, podman, umoci; with and without users and TLS.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use fnbuild::oci::Digest;

use crate::registry_kit::{Registry, program, random};
use crate::support::registry::certificate;
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
            // Where the clients look for whom to trust.
            std::fs::create_dir(path("certs")).unwrap();
            std::fs::copy(path("cert.pem"), path("certs/ca.crt")).unwrap();
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

    /// What a client has to be told: whom to trust, or that there is no TLS; and who asks. `side` is `src-`, `dest-`
    /// or nothing.
    fn access(&self, side: &str) -> Vec<String> {
        let trust = if self.tls {
            format!("--{side}cert-dir={}", self.path("certs").display())
        } else {
            format!("--{side}tls-verify=false")
        };
        let user = self.auth.then(|| format!("--{side}creds=ann:secret"));
        std::iter::once(trust).chain(user).collect()
    }

    fn skopeo_one(&self, verb: &str, more: &[&str]) -> String {
        run(self.skopeo(verb).args(self.access("")).args(more))
    }
}

#[test]
fn skopeo_and_umoci_copy_inspect_list_sync_and_delete() {
    for (auth, tls) in VARIANTS {
        let served = Served::start(auth, tls);
        let (image, remote) = (served.layout(), format!("docker://{}/skopeo/one", served.address));
        let mut copy = served.skopeo("copy");
        run(copy.args(served.access("dest-")).args([&format!("oci:{image}"), &format!("{remote}:a")]));
        let mut again = served.skopeo("copy");
        again.args(served.access("src-")).args(served.access("dest-"));
        run(again.args([&format!("{remote}:a"), &format!("docker://{}/skopeo/two:b", served.address)]));
        assert!(served.skopeo_one("list-tags", &[&remote]).contains("\"a\""));
        let digest = served.skopeo_one("inspect", &["--format", "{{.Digest}}", &format!("{remote}:a")]);
        // Back into a layout, and unpacked by umoci.
        let back = served.path("back");
        let mut pull = served.skopeo("copy");
        pull.args(served.access("src-"));
        run(pull.arg(format!("{remote}@{digest}")).arg(format!("oci:{}:image", back.display())));
        let bundle = served.path("bundle");
        run(Command::new("umoci")
            .args(["unpack", "--rootless", "--image", &format!("{}:image", back.display())])
            .arg(&bundle));
        let (sent, got) =
            (std::fs::read(served.path("file")).unwrap(), std::fs::read(bundle.join("rootfs/file")).unwrap());
        assert_eq!(Digest::of(sent), Digest::of(got));
        let mut sync = served.skopeo("sync");
        sync.args(["--src", "docker", "--dest", "dir"]).args(served.access("src-"));
        run(sync.arg(format!("{}/skopeo/one", served.address)).arg(served.path("synced")));
        assert!(served.path("synced/one:a/manifest.json").exists());
        let mut sync = served.skopeo("sync");
        sync.args(["--src", "dir", "--dest", "docker"]).args(served.access("dest-"));
        run(sync.arg(served.path("synced")).arg(format!("{}/synced", served.address)));
        let synced = format!("docker://{}/synced/one:a", served.address);
        assert_eq!(served.skopeo_one("inspect", &["--format", "{{.Digest}}", &synced]), digest);
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
            let access = served.access("");
            let access: Vec<&str> = access.iter().map(String::as_str).collect();
            let (seed, remote) = (
                format!("{}/{client}/seed:t", served.address),
                format!("{}/{client}/image:t", served.address),
            );
            let mut copy = served.skopeo("copy");
            copy.args(served.access("dest-"));
            run(copy.arg(format!("oci:{image}")).arg(format!("docker://{seed}")));
            let remote = format!("docker://{remote}");
            call(&[&["pull", "--quiet"], &access[..], &[&seed]].concat());
            call(&[&["push", "--quiet"], &access[..], &[&seed, &remote]].concat());
            call(&["rmi", "--all", "--force"]);
            call(&[&["pull", "--quiet"], &access[..], &[&remote]].concat());
            let digest = served.skopeo_one("inspect", &["--format", "{{.Digest}}", &remote]);
            assert!(digest.starts_with("sha256:"), "{digest}");
        }
    }
}

#[test]
fn docker_pushes_and_pulls() {
    // dockerd asks a registry on a loopback address by TLS first, and takes any certificate of it.
    for (auth, tls) in VARIANTS {
        let served = Served::start(auth, tls);
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
    let error = crate::support::run_failing(&mut command, 2);
    assert!(error.contains("--htpasswd") && error.contains("--no-auth"), "{error}");
    let wide = format!("0.0.0.0:{}", crate::support::free_port());
    let (_server, address) = program(folder.path(), &["--listen", &wide, "--no-auth"]);
    assert!(std::net::TcpStream::connect(address).is_ok() && std::net::TcpStream::connect(wide).is_ok());
}

#[test]
fn every_request_leaves_a_line_unless_nobody_wants_it() {
    let log_of = |more: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("htpasswd").args(["-cbB"]).arg(folder.path().join("users")).args(["ann", "secret"]));
        let log = folder.path().join("log");
        let address = format!("127.0.0.1:{}", crate::support::free_port());
        let mut command = crate::support::fnbuild();
        command.args(["registry", "serve", "--listen", &address, "--data-dir"]).arg(folder.path());
        command.arg("--htpasswd").arg(folder.path().join("users")).args(more);
        let _server = Server::start(command.stderr(std::fs::File::create(&log).unwrap()));
        wait_until("the registry's port", Duration::from_secs(30), || {
            std::net::TcpStream::connect(&address).is_ok()
        });
        let url = format!("http://{address}/v2/some/name/tags/list?n=5");
        run(Command::new("curl").args(["-s", "-u", "ann:secret", &url]));
        drop(_server);
        std::fs::read_to_string(&log).unwrap()
    };
    let log = log_of(&[]);
    let line = log.lines().find(|line| line.contains("/v2/some/name/tags/list?n=5")).expect(&log);
    for part in ["peer=127.0.0.1:", "user=\"ann\"", "method=GET", "status=404", "size=", "micros="] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert!(!line.contains("secret"));
    assert!(!log_of(&["--no-access-log"]).contains("tags/list"));
}

#[test]
fn a_new_certificate_is_taken_up_while_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (certified, key) = certificate(folder.path(), "server");
    let flags = ["--tls-cert", certified.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let (_server, address) = program(&folder.path().join("data"), &flags);
    let answers = |url: &str| {
        let ca = folder.path().join("ca.pem");
        let mut curl = Command::new("curl");
        curl.args(["-fsS", "--max-time", "10", "--cacert"]).arg(ca).arg(url);
        curl.output().unwrap().status.success()
    };
    let url = format!("https://{address}/v2/");
    assert!(answers(&url));
    assert!(!answers(&format!("http://{address}/v2/")), "on loopback too, nothing is answered without TLS");

    // Another authority's, in the same files: who trusts only that one was refused before.
    certificate(folder.path(), "server");
    wait_until("the new certificate", Duration::from_secs(20), || answers(&url));
}
