//! Secrets through the command line and the API, down to what the store's files hold.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fnbuild::secrets::{LARGEST_SECRET, SecretError, SecretKey, SecretName, Secrets};
use fnbuild::store::{FunctionStore, SledStore, ValueKey};

use crate::support::{fnbuild, run, run_failing};

fn store(folder: &Path) -> Arc<SledStore> {
    SledStore::create(&folder.join("records")).unwrap();
    Arc::new(SledStore::open(&folder.join("records")).unwrap())
}

fn key(folder: &Path, name: &str) -> SecretKey {
    SecretKey::load_or_create(&folder.join(name)).unwrap()
}

fn name(name: &str) -> SecretName {
    name.parse().unwrap()
}

#[tokio::test]
async fn secrets_are_kept_changed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let secrets = Secrets::new(store.clone(), key(folder.path(), "key"));
    secrets.create(&name("b"), b"first").await.unwrap();
    secrets.create(&name("a"), &[0xff; LARGEST_SECRET]).await.unwrap();
    assert!(matches!(secrets.create(&name("b"), b"x").await, Err(SecretError::Exists { .. })));
    secrets.replace(&name("b"), b"second").await.unwrap();
    assert_eq!(secrets.open(&name("b")).await.unwrap().bytes(), b"second");
    assert_eq!(secrets.open(&name("a")).await.unwrap().bytes().len(), LARGEST_SECRET);
    assert_eq!(secrets.list().await.unwrap(), [name("a"), name("b")]);
    let large = secrets.replace(&name("b"), &[0; LARGEST_SECRET + 1]).await;
    assert!(matches!(large, Err(SecretError::TooLarge { .. })));

    // Another name's sealed value in the place of this one is not taken for it.
    let at = |name: &str| ValueKey::new("secret", name).unwrap();
    let (a, b) =
        (store.value(&at("a")).await.unwrap().unwrap(), store.value(&at("b")).await.unwrap().unwrap());
    store.swap_value(&at("b"), Some(b.revision), Some(&a.bytes)).await.unwrap();
    assert!(matches!(secrets.open(&name("b")).await, Err(SecretError::Damaged { .. })));

    secrets.delete(&name("b")).await.unwrap();
    for gone in [secrets.delete(&name("b")).await, secrets.replace(&name("b"), b"x").await] {
        assert!(matches!(gone, Err(SecretError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_node_with_another_key_says_so_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let ours = Secrets::new(store.clone(), key(folder.path(), "ours"));
    ours.check().await.unwrap();
    ours.create(&name("a"), b"1").await.unwrap();

    let theirs = Secrets::new(store.clone(), key(folder.path(), "theirs"));
    let error = theirs.check().await.unwrap_err();
    let (one, two) = (key(folder.path(), "ours"), key(folder.path(), "theirs"));
    assert!(error.to_string().contains(one.id().as_str()), "{error}");
    assert!(error.to_string().contains(two.id().as_str()), "{error}");
    assert!(matches!(theirs.create(&name("b"), b"2").await, Err(SecretError::OtherKey { .. })));
    assert!(matches!(theirs.open(&name("a")).await, Err(SecretError::OtherKey { .. })));
    assert_eq!(ours.list().await.unwrap(), [name("a")]);
}

/// A server with the routes of secrets alone, and its URL.
async fn serve(secrets: Arc<Secrets>) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = axum::Router::from(fnbuild::api::secrets::routes(secrets));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

fn create(url: &str, arguments: &[&str], value: &[u8]) -> std::process::Output {
    let mut command = fnbuild();
    command.args(["secret", "create", "--server", url]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A refusal may come before everything is read.
    let _ = child.stdin.take().unwrap().write_all(value);
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_keeps_secrets_that_no_file_shows() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = Arc::new(Secrets::new(store(folder.path()), key(folder.path(), "key")));
    let url = &serve(secrets.clone()).await;
    let value = b"a value that is nowhere else\0\xff\n";
    assert!(create(url, &["api-key"], value).status.success());
    assert_eq!(secrets.open(&name("api-key")).await.unwrap().bytes(), value);

    let again = create(url, &["api-key"], b"x");
    assert_eq!(again.status.code(), Some(1));
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("there is a secret api-key already") && told.contains("--replace"), "{told}");
    let from = folder.path().join("from");
    std::fs::write(&from, b"another").unwrap();
    assert!(
        create(url, &["api-key", "--replace", "--from-file", from.to_str().unwrap()], b"").status.success()
    );
    assert_eq!(secrets.open(&name("api-key")).await.unwrap().bytes(), b"another");
    assert!(create(url, &["third"], value).status.success());

    assert_eq!(run(fnbuild().args(["secret", "list", "--server", url])), "api-key\nthird");
    run(fnbuild().args(["secret", "delete", "api-key", "--server", url]));
    assert_eq!(run(fnbuild().args(["secret", "list", "--server", url])), "third");
    let gone = run_failing(fnbuild().args(["secret", "delete", "api-key", "--server", url]), 1);
    assert!(gone.contains("there is no secret api-key"), "{gone}");
    run_failing(fnbuild().args(["secret", "create", "No/Name", "--server", url]), 2);

    let needle = "a value that is nowhere else";
    let found = Command::new("grep").args(["-rlaF", needle]).arg(folder.path()).output().unwrap();
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_speaks_openfaas() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = Arc::new(Secrets::new(store(folder.path()), key(folder.path(), "key")));
    let url = format!("{}/system/secrets", serve(secrets.clone()).await);
    let curl = |method: &str, body: &str| {
        let mut command = Command::new("curl");
        command.args([
            "-s",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
            &url,
            "-H",
            "Content-Type: application/json",
        ]);
        let answer = run(command.args(["-d", body]));
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(curl("POST", r#"{"name": "a", "namespace": "", "value": "text"}"#).0, 201);
    assert_eq!(secrets.open(&name("a")).await.unwrap().bytes(), b"text");
    assert_eq!(curl("PUT", r#"{"name": "a", "rawValue": "AP8="}"#).0, 200);
    assert_eq!(secrets.open(&name("a")).await.unwrap().bytes(), [0, 0xff]);
    assert_eq!(curl("GET", ""), (200, r#"[{"name":"a"}]"#.into()));
    assert_eq!(curl("POST", r#"{"name": "a", "value": "x"}"#).0, 409);
    assert_eq!(curl("POST", r#"{"name": "b"}"#).0, 400);
    assert_eq!(curl("PUT", r#"{"name": "b", "value": "x"}"#).0, 404);
    assert_eq!(curl("DELETE", r#"{"name": "a"}"#).0, 200);
    assert_eq!(curl("DELETE", r#"{"name": "a"}"#).0, 404);
}
