//! The wire client against real registries, and against a proxy that makes a real one misbehave.

use std::sync::Arc;
use std::time::Duration;

use fnbuild::oci::{Descriptor, Digest, ImageManifest, Repository, Tag, media_type};
use fnbuild::registry::{Access, Chunks, Content, Error, InMemory, Login, Mount, Patience, Registry, Secret};
use http::StatusCode;

use crate::support::faulty::{Fault, Proxy};
use crate::support::registry::{DockerRegistry, PASSWORD, TokenServer, USER, free_address};

/// Patient enough for a fault or two, and quick about it.
fn access() -> Access {
    let patience = Patience {
        attempts: 4,
        total: Duration::from_secs(20),
        backoff: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        idle: Duration::from_secs(5),
        connect: Duration::from_secs(5),
    };
    Access { patience, ..Access::default() }
}

fn open(host: &str) -> Registry {
    Registry::new(host, access()).unwrap()
}

fn password() -> Login {
    Login::Password { user: USER.into(), password: Secret::new(PASSWORD) }
}

fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

fn blob(bytes: impl Into<bytes::Bytes>) -> Arc<dyn Content> {
    Arc::new(InMemory::new(bytes))
}

/// More than fits into any buffer on the way.
fn large() -> Vec<u8> {
    (0..1_000_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// Config and layer uploaded, and the manifest that names them.
async fn image(registry: &Registry, repository: &Repository, layer: &[u8]) -> bytes::Bytes {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    registry.push_blob(repository, blob(&config[..]), None).await.unwrap();
    registry.push_blob(repository, blob(layer.to_vec()), None).await.unwrap();
    manifest(config, layer)
}

fn manifest(config: &[u8], layer: &[u8]) -> bytes::Bytes {
    let layers = vec![Descriptor::of(media_type::LAYER, layer)];
    let manifest = ImageManifest::new(Descriptor::of(media_type::CONFIG, config), layers);
    serde_json::to_vec(&manifest).unwrap().into()
}

/// A real blob, fetched through the library.
async fn fetched(registry: &Registry, repository: &Repository, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut sink = Vec::new();
    registry.pull_blob_to(repository, &Descriptor::of(media_type::LAYER, bytes), &mut sink).await?;
    Ok(sink)
}

#[tokio::test]
async fn what_is_pushed_comes_back() {
    let server = DockerRegistry::start();
    let registry = open(&server.host());
    let (repository, tag) = (repository("fn/add"), Tag::latest());
    registry.check().await.unwrap();
    assert!(registry.head_manifest(&repository, &tag).await.unwrap().is_none());
    assert!(registry.tags(&repository).await.unwrap().is_empty());
    let layer = large();
    let bytes = image(&registry, &repository, &layer).await;
    let digest =
        registry.push_manifest(&repository, &tag, media_type::MANIFEST, bytes.clone()).await.unwrap();
    let found = registry.head_manifest(&repository, &tag).await.unwrap().unwrap();
    assert_eq!((found.digest, found.size), (digest.clone(), bytes.len() as u64));
    assert_eq!(registry.pull_manifest(&repository, &digest).await.unwrap().bytes, bytes);
    assert_eq!(registry.tags(&repository).await.unwrap(), std::slice::from_ref(&tag));
    assert_eq!(fetched(&registry, &repository, &layer).await.unwrap(), layer);
    assert!(registry.delete_manifest(&repository, &digest).await.unwrap());
    assert!(!registry.delete_manifest(&repository, &digest).await.unwrap());
    assert!(registry.pull_manifest(&repository, &digest).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_incomplete_manifest_is_refused_with_what_is_missing_and_a_mount_mends_it() {
    let server = DockerRegistry::start();
    let registry = open(&server.host());
    let (from, to) = (repository("fnbuild/base"), repository("fn/add"));
    let bytes = image(&registry, &from, b"a layer").await;
    let refused = registry.push_manifest(&to, &Tag::latest(), media_type::MANIFEST, bytes.clone()).await;
    let Error::IncompleteManifest { missing } = refused.unwrap_err() else { panic!("not called incomplete") };
    assert!(missing.contains(&Digest::of(b"a layer")));
    for digest in missing {
        assert!(matches!(registry.mount_blob(&to, &digest, &from).await.unwrap(), Mount::Mounted));
    }
    registry.push_manifest(&to, &Tag::latest(), media_type::MANIFEST, bytes).await.unwrap();
}

#[tokio::test]
async fn a_refused_mount_is_an_upload_that_can_be_used() {
    let server = DockerRegistry::start();
    let registry = open(&server.host());
    let (from, to) = (repository("not/there"), repository("fn/add"));
    let content = blob(&b"bytes"[..]);
    let Mount::Refused(upload) = registry.mount_blob(&to, content.digest(), &from).await.unwrap() else {
        panic!("mounted from nowhere")
    };
    registry.push_blob(&to, content.clone(), Some(upload)).await.unwrap();
    assert!(registry.has_blob(&to, content.digest(), 5).await.unwrap());
}

#[tokio::test]
async fn basic_credentials_are_given_and_checked() {
    let server = DockerRegistry::with_htpasswd();
    let registry = Registry::with_login(&server.host(), access(), password()).unwrap();
    registry.check().await.unwrap();
    image(&registry, &repository("fn/add"), b"layer").await;
    let wrong = Login::Password { user: USER.into(), password: Secret::new("battery staple") };
    let refused = Registry::with_login(&server.host(), access(), wrong).unwrap().check().await.unwrap_err();
    assert!(matches!(refused, Error::Forbidden { .. }), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("battery"));
    assert!(refused.hint().unwrap().contains("fnbuild login"));
}

#[tokio::test]
async fn tokens_are_asked_for_by_scope_and_kept() {
    let tokens = TokenServer::start().await;
    let server = DockerRegistry::with_tokens(&tokens);
    let registry = Registry::with_login(&server.host(), access(), password()).unwrap();
    let (from, to) = (repository("fnbuild/base"), repository("fn/add"));
    let bytes = image(&registry, &from, b"a layer").await;
    assert_eq!(tokens.grants(), 1, "one token serves a whole push");
    registry.push_manifest(&from, &Tag::latest(), media_type::MANIFEST, bytes).await.unwrap();
    let mount = registry.mount_blob(&to, &Digest::of(b"a layer"), &from).await.unwrap();
    assert!(matches!(mount, Mount::Mounted), "the token allows reading the mount's source");
    assert_eq!(tokens.grants(), 2);
}

#[tokio::test]
async fn a_token_server_that_refuses_is_told_from_one_that_was_not_asked_well() {
    let tokens = TokenServer::start().await;
    let server = DockerRegistry::with_tokens(&tokens);
    let wrong = Login::Password { user: USER.into(), password: Secret::new("battery staple") };
    let registry = Registry::with_login(&server.host(), access(), wrong).unwrap();
    let refused = registry.tags(&repository("fn/add")).await.unwrap_err();
    assert!(matches!(refused, Error::Forbidden { .. }), "{refused}");
}

#[tokio::test]
async fn tls_by_a_private_ca_needs_the_ca_or_an_explicit_insecure() {
    let (server, ca) = DockerRegistry::with_tls();
    let with = |access: Access| Registry::new(&server.host(), access).unwrap();
    with(Access { ca: Some(ca), ..access() }).check().await.unwrap();
    with(Access { insecure: true, ..access() }).check().await.unwrap();
    let missing = tempfile::tempdir().unwrap();
    let (_, other) = crate::support::registry::certificate(missing.path(), "other");
    assert!(other.exists());
    let other = missing.path().join("ca.pem");
    let refused = with(Access { ca: Some(other), ..access() }).check().await.unwrap_err();
    assert!(matches!(refused, Error::Tls { .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("--registry-ca"));
}

#[tokio::test]
async fn a_plain_answer_to_a_tls_hello_is_recognised() {
    let server = DockerRegistry::start();
    let registry = Registry::new(&server.host(), Access { insecure: true, ..access() }).unwrap();
    let refused = registry.check().await.unwrap_err();
    assert!(matches!(refused, Error::PlainHttpAnswer { .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("--plain-http"));
}

#[tokio::test]
async fn a_registry_that_is_away_is_one_clear_line() {
    let address = free_address();
    let refused = open(&address.to_string()).check().await.unwrap_err();
    assert_eq!(refused.to_string(), format!("connect to {address}"));
    assert!(refused.hint().unwrap().contains("fnbuild registry serve"));
}

#[tokio::test]
async fn busy_and_broken_answers_are_tried_again() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |seen, before| match (seen.method.as_str(), before) {
        ("POST", 0) => Some(Fault::Answer(
            429,
            vec![("retry-after", "86400".into())],
            r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#,
        )),
        ("PUT", 0) => Some(Fault::Answer(503, vec![], "")),
        ("HEAD", 0) => Some(Fault::Answer(502, vec![], "<html>")),
        _ => None,
    })
    .await;
    let registry = open(&proxy.host());
    let repository = repository("fn/add");
    let bytes = image(&registry, &repository, b"layer").await;
    registry.push_manifest(&repository, &Tag::latest(), media_type::MANIFEST, bytes).await.unwrap();
    assert!(registry.head_manifest(&repository, &Tag::latest()).await.unwrap().is_some());
}

#[tokio::test]
async fn patience_has_an_end() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |_, _| Some(Fault::Answer(500, vec![], "no"))).await;
    let failed = open(&proxy.host()).begin_upload(&repository("fn/add")).await.unwrap_err();
    assert!(matches!(failed, Error::Status { status: StatusCode::INTERNAL_SERVER_ERROR, .. }), "{failed}");
    assert_eq!(proxy.seen().len(), 4);
}

#[tokio::test]
async fn patience_ends_by_the_clock_too() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |_, _| Some(Fault::Answer(500, vec![], "no"))).await;
    let mut patient = access();
    (patient.patience.attempts, patient.patience.total) = (u32::MAX, Duration::from_millis(200));
    let registry = Registry::new(&proxy.host(), patient).unwrap();
    let failed = registry.begin_upload(&repository("fn/add")).await.unwrap_err();
    assert!(matches!(failed, Error::Status { .. }), "{failed}");
    assert!(proxy.seen().len() > 1);
}

#[tokio::test]
async fn a_blob_begins_anew_when_the_connection_breaks_or_the_upload_is_lost() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |seen, before| match (seen.method.as_str(), before) {
        ("PUT", 0) => Some(Fault::Hangup(400_000)),
        ("PUT", 1) => Some(Fault::Answer(404, vec![], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)),
        _ => None,
    })
    .await;
    let (registry, repository, layer) = (open(&proxy.host()), repository("fn/add"), large());
    registry.push_blob(&repository, blob(layer.clone()), None).await.unwrap();
    assert_eq!(proxy.count("POST", "uploads"), 3);
    assert_eq!(fetched(&registry, &repository, &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn a_blob_whose_confirmation_was_lost_is_not_sent_again() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |seen, before| {
        (seen.method == "PUT" && before == 0).then_some(Fault::LoseAnswer)
    })
    .await;
    let registry = open(&proxy.host());
    registry.push_blob(&repository("fn/add"), blob(large()), None).await.unwrap();
    assert_eq!(proxy.count("PUT", "uploads"), 1);
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_and_not_for_ever() {
    let server = DockerRegistry::with_htpasswd();
    let storage = Proxy::answering(|_| (200, "elsewhere".into())).await;
    let elsewhere = storage.address;
    let proxy = Proxy::before(server.address, move |seen, _| {
        let headers = |to: String| vec![("location", to)];
        match seen.path.as_str() {
            path if path.contains("around") => Some(Fault::Answer(307, headers(path.into()), "")),
            path if path.contains("/blobs/sha256") => {
                Some(Fault::Answer(307, headers(format!("http://{elsewhere}/storage?signature=1")), ""))
            }
            _ => None,
        }
    })
    .await;
    let registry = Registry::with_login(&proxy.host(), access(), password()).unwrap();
    registry.check().await.unwrap();
    assert_eq!(fetched(&registry, &repository("fn/add"), b"elsewhere").await.unwrap(), b"elsewhere");
    assert!(proxy.seen().last().unwrap().authorization.is_some());
    assert!(storage.seen().iter().all(|seen| seen.authorization.is_none()));
    let endless = registry.head_manifest(&repository("around"), &Tag::latest()).await.unwrap_err();
    assert!(endless.to_string().contains("redirects"), "{endless}");
}

#[tokio::test]
async fn an_upload_that_is_redirected_takes_its_bytes_along() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |seen, _| {
        let around = seen.path.replace("/v2/fn/add/", "/v2/fn/moved/");
        (seen.path != around && matches!(seen.method.as_str(), "POST" | "PUT"))
            .then(|| Fault::Answer(308, vec![("location", around)], ""))
    })
    .await;
    let (registry, layer) = (open(&proxy.host()), large());
    registry.push_blob(&repository("fn/add"), blob(layer.clone()), None).await.unwrap();
    assert_eq!(fetched(&registry, &repository("fn/moved"), &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn an_upload_goes_where_the_registry_says_without_credentials_to_strangers() {
    let server = DockerRegistry::with_htpasswd();
    let storage = Proxy::answering(|_| (201, String::new())).await;
    let to = format!("http://{}/put?signature=a%2Fb", storage.address);
    let proxy = Proxy::before(server.address, move |seen, _| {
        (seen.method == "POST" && seen.authorization.is_some()).then(|| Fault::Header("location", to.clone()))
    })
    .await;
    let registry = Registry::with_login(&proxy.host(), access(), password()).unwrap();
    let content = blob(&b"bytes"[..]);
    registry.push_blob(&repository("fn/add"), content.clone(), None).await.unwrap();
    let seen = storage.seen();
    assert_eq!(seen[0].path, format!("/put?signature=a%2Fb&digest={}", content.digest()));
    assert!(seen[0].authorization.is_none());
}

#[tokio::test]
async fn relative_locations_are_understood() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |_, _| Some(Fault::RelativeLocation)).await;
    open(&proxy.host()).push_blob(&repository("fn/add"), blob(large()), None).await.unwrap();
    assert_eq!(proxy.count("POST", "uploads"), 1);
}

#[tokio::test]
async fn a_page_that_says_welcome_is_no_registry() {
    let welcome = Proxy::answering(|_| (200, "<html>welcome</html>".into())).await;
    let registry = open(&welcome.host());
    let repository = repository("fn/add");
    let failed = registry.push_blob(&repository, blob(&b"bytes"[..]), None).await.unwrap_err();
    assert!(failed.to_string().contains("this is no registry"), "{failed}");
    let put = registry.push_manifest(&repository, &Tag::latest(), media_type::MANIFEST, "{}".into()).await;
    assert!(put.is_err());
    assert!(!registry.has_blob(&repository, &Digest::of(b"bytes"), 5).await.unwrap());
    assert!(registry.pull_manifest(&repository, &Digest::of(b"bytes")).await.is_err());
}

#[tokio::test]
async fn a_registry_that_stored_something_else_is_not_believed() {
    let server = DockerRegistry::start();
    let wrong = Digest::of(b"something else").to_string();
    let proxy = Proxy::before(server.address, move |seen, _| {
        (seen.method == "PUT").then(|| Fault::Header("docker-content-digest", wrong.clone()))
    })
    .await;
    let failed =
        open(&proxy.host()).push_blob(&repository("fn/add"), blob(&b"bytes"[..]), None).await.unwrap_err();
    assert!(matches!(failed, Error::DigestMismatch { .. }), "{failed}");
}

#[tokio::test]
async fn corrupt_blobs_and_manifests_are_never_used() {
    let server = DockerRegistry::start();
    let repository = repository("fn/add");
    let direct = open(&server.host());
    let bytes = image(&direct, &repository, &large()).await;
    let digest =
        direct.push_manifest(&repository, &Tag::latest(), media_type::MANIFEST, bytes).await.unwrap();
    let proxy =
        Proxy::before(server.address, |seen, _| (seen.method == "GET").then_some(Fault::Corrupt)).await;
    let registry = open(&proxy.host());
    let failed = fetched(&registry, &repository, &large()).await.unwrap_err();
    assert!(matches!(failed, Error::DigestMismatch { .. }), "{failed}");
    let by_digest = registry.pull_manifest(&repository, &digest).await.unwrap_err();
    assert!(matches!(by_digest, Error::DigestMismatch { .. }), "{by_digest}");
    let by_tag = registry.pull_manifest(&repository, &Tag::latest()).await.unwrap_err();
    assert!(matches!(by_tag, Error::DigestMismatch { .. }), "{by_tag}");
}

#[tokio::test]
async fn a_manifest_under_another_digest_than_its_own_is_an_error() {
    let server = DockerRegistry::start();
    let repository = repository("fn/add");
    let direct = open(&server.host());
    let bytes = image(&direct, &repository, b"layer").await;
    let pushed = direct.push_manifest(&repository, &Tag::latest(), media_type::MANIFEST, bytes).await;
    let wrong = Digest::of(b"something else").to_string();
    let proxy = Proxy::before(server.address, move |_, _| {
        Some(Fault::Header("docker-content-digest", wrong.clone()))
    })
    .await;
    let registry = open(&proxy.host());
    let by_tag = registry.pull_manifest(&repository, &Tag::latest()).await.unwrap_err();
    assert!(matches!(by_tag, Error::DigestMismatch { .. }), "{by_tag}");
    let by_digest = registry.pull_manifest(&repository, &pushed.unwrap()).await.unwrap_err();
    assert!(matches!(by_digest, Error::DigestMismatch { .. }), "{by_digest}");
}

#[tokio::test]
async fn a_truncated_download_goes_on_from_there() {
    let server = DockerRegistry::start();
    let (repository, layer) = (repository("fn/add"), large());
    open(&server.host()).push_blob(&repository, blob(layer.clone()), None).await.unwrap();
    let proxy = Proxy::before(server.address, |seen, before| {
        (seen.method == "GET" && before < 2).then_some(Fault::Truncate(1_000_000))
    })
    .await;
    assert_eq!(fetched(&open(&proxy.host()), &repository, &layer).await.unwrap(), layer);
    let ranges: Vec<_> = proxy.seen().into_iter().map(|seen| seen.range.is_some()).collect();
    assert_eq!(ranges, [false, true, true]);
}

#[tokio::test]
async fn a_stalled_transfer_ends_and_a_slow_one_does_not() {
    let server = DockerRegistry::start();
    let (repository, layer) = (repository("fn/add"), large());
    open(&server.host()).push_blob(&repository, blob(layer.clone()), None).await.unwrap();
    let mut impatient = access();
    impatient.patience.idle = Duration::from_millis(300);
    impatient.patience.attempts = 1;
    let through = |proxy: &Proxy| Registry::new(&proxy.host(), impatient.clone()).unwrap();
    let stalls = Proxy::before(server.address, |_, _| Some(Fault::Stall(1000))).await;
    let failed = fetched(&through(&stalls), &repository, &layer).await.unwrap_err();
    assert!(matches!(failed, Error::Stalled { .. }), "{failed}");
    let slow = Proxy::before(server.address, |_, _| Some(Fault::Slow(Duration::from_millis(2)))).await;
    assert_eq!(fetched(&through(&slow), &repository, &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn a_stalled_upload_ends_and_a_slow_one_does_not() {
    let server = DockerRegistry::start();
    let mut impatient = access();
    impatient.patience.idle = Duration::from_secs(1);
    impatient.patience.attempts = 1;
    let through = |proxy: &Proxy| Registry::new(&proxy.host(), impatient.clone()).unwrap();
    let repository = repository("fn/add");
    let deaf = Proxy::before(server.address, |seen, _| (seen.method == "PUT").then_some(Fault::Deaf)).await;
    let failed = through(&deaf).push_blob(&repository, blob(large()), None).await.unwrap_err();
    assert!(matches!(failed, Error::Stalled { .. }), "{failed}");
    // Takes twice as long as anything may stand still.
    let much: Vec<u8> = large().repeat(4);
    let slow =
        Proxy::before(server.address, |seen, _| (seen.method == "PUT").then_some(Fault::Sip(8 << 20))).await;
    through(&slow).push_blob(&repository, blob(much.clone()), None).await.unwrap();
    assert!(through(&slow).has_blob(&repository, &Digest::of(&much), much.len() as u64).await.unwrap());
}

/// Content that claims more than it has.
struct Short(Digest);

impl Content for Short {
    fn digest(&self) -> &Digest {
        &self.0
    }

    fn size(&self) -> u64 {
        10_000_000
    }

    fn chunks(&self) -> std::io::Result<Chunks> {
        Ok(Box::new(std::iter::repeat_n(bytes::Bytes::from_static(b"short"), 100_000).map(Ok)))
    }
}

#[tokio::test]
async fn content_that_changes_under_way_is_our_own_error_and_not_tried_again() {
    let server = DockerRegistry::start();
    let proxy = Proxy::before(server.address, |_, _| None).await;
    let content = Arc::new(Short(Digest::of(b"short")));
    let failed = open(&proxy.host()).push_blob(&repository("fn/add"), content, None).await.unwrap_err();
    assert!(matches!(failed, Error::Source { .. }), "{failed}");
    assert_eq!(proxy.count("POST", "uploads"), 1);
}
