//! Secrets inside: as files in memory, and nowhere else.

use std::path::Path;
use std::process::Command;

use fnbuild::function::Settings;
use fnbuild::replica::{Error, LogQuery};

use super::{HTTPD, Site, acquire, ctr, function, inside, soon};
use crate::support::run;

const VALUE: &str = "a-value-that-stands-nowhere-else";

fn naming(secret: &str) -> Settings {
    Settings { secrets: [secret.to_string()].into(), ..Settings::default() }
}

/// Whether a file below `folder` has the value in it.
fn stands_below(folder: &Path) -> bool {
    let mut grep = Command::new("grep");
    grep.args(["-rqaF", VALUE]).arg(folder);
    grep.status().unwrap().success()
}

#[tokio::test]
async fn secrets_are_files_in_memory_for_the_function_alone() {
    let name = "api-key".parse().unwrap();
    let site = Site::new().with("keeper", HTTPD, naming("api-key"));
    site.secrets.create(&name, VALUE.as_bytes()).await.unwrap();
    let replicas = site.start().await;
    let lease = acquire(&replicas, "keeper").await;
    let id = lease.replica().id.clone();
    assert_eq!(inside(&lease, "cat /run/secrets/api-key").await, VALUE);
    let file = inside(&lease, "busybox stat -c '%a %u %g' /run/secrets/api-key; id -u; id -g").await;
    let [about, uid, gid] = file.lines().collect::<Vec<_>>()[..] else { panic!("{file}") };
    assert_eq!(about, format!("400 {uid} {gid}"));
    let burgle = "for f in /run/secrets/api-key /run/secrets/new; do (echo x > $f) 2>/dev/null && echo $f; done; \
                  busybox chmod 666 /run/secrets/api-key 2>/dev/null && echo chmod; true";
    assert_eq!(inside(&lease, burgle).await, "");
    let mounted = inside(&lease, "grep ' /run/secrets ' /proc/self/mountinfo").await;
    assert!(mounted.contains(" - tmpfs ") && mounted.lines().count() == 1, "{mounted}");
    assert!(!inside(&lease, "busybox env; cat /proc/1/environ").await.contains(VALUE));

    let told = ctr(&site.namespace, &["containers", "info", &id]);
    assert!(!told.contains(VALUE), "{told}");
    assert!(!run(Command::new("ps").args(["-eo", "args"])).contains(VALUE));
    assert!(!stands_below(site.data.path()), "the data folder has it in plain text");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("/run/secrets"));

    // What runs keeps what it was given; what starts is given what is there then.
    site.secrets.replace(&name, b"another").await.unwrap();
    assert_eq!(inside(&lease, "cat /run/secrets/api-key").await, VALUE);
    drop(lease);
    replicas.scale(&function("keeper"), 0).await.unwrap();
    let lease = acquire(&replicas, "keeper").await;
    assert_eq!(inside(&lease, "cat /run/secrets/api-key").await, "another");
    drop(lease);
    let mut lines = replicas.logs(&function("keeper"), LogQuery::default());
    while let Some(line) = lines.recv().await {
        assert!(!line.unwrap().text.contains(VALUE));
    }
    site.close(replicas).await;
}

#[tokio::test]
async fn a_function_whose_secret_is_missing_says_so() {
    let site = Site::new().with("keeper", HTTPD, naming("absent"));
    let replicas = site.start().await;
    let missing = "there is no secret absent";
    let error = replicas.acquire(&function("keeper"), None, soon()).await.err().unwrap();
    let Error::CannotStart { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), missing);
    assert_eq!(error.hint().unwrap(), "create it: fnbuild secret create absent");
    // A version is not even made of it.
    let version = &site.records[0].current().unwrap().image;
    assert_eq!(replicas.prepare(version).await.unwrap_err().to_string(), missing);
    // Nothing is to be waited for once it is there.
    site.secrets.create(&"absent".parse().unwrap(), b"present").await.unwrap();
    let lease = acquire(&replicas, "keeper").await;
    assert_eq!(inside(&lease, "cat /run/secrets/absent").await, "present");
    drop(lease);
    site.close(replicas).await;
}
