//! A machine that is full: who makes room for whom.

use std::sync::Arc;
use std::time::Duration;

use fnbuild::function::Settings;
use fnbuild::replica::{Replicas, ScaleSettings};

use super::{HTTPD, Site, acquire, function, inside};

impl Site {
    async fn start_with_places(&self, places: usize) -> Arc<Replicas> {
        let mut config = self.config();
        config.scale = ScaleSettings { max_replicas: places, pool: 0, ..config.scale };
        self.start_with(config).await
    }
}

fn running(replicas: &Replicas, names: &[String]) -> usize {
    names.iter().map(|name| replicas.list(&function(name)).len()).sum()
}

/// 20 functions on a machine with room for 6; `scripts/soak` says 200 and 40.
#[tokio::test]
async fn functions_called_at_once_share_a_machine_that_has_not_room_for_all() {
    let many = std::env::var("FNBUILD_TEST_FUNCTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let places = (many / 5).max(6);
    let names: Vec<String> = (0..many).map(|number| format!("f{number}")).collect();
    let site = names.iter().fold(Site::new(), |site, name| site.with(name, HTTPD, Settings::default()));
    let replicas = site.start_with_places(places).await;
    let calls = names.iter().map(|name| {
        let (replicas, names) = (replicas.clone(), &names);
        async move {
            let lease = acquire(&replicas, name).await;
            assert_eq!(inside(&lease, "hostname").await, *name);
            assert!(running(&replicas, names) <= places);
        }
    });
    futures_util::future::join_all(calls).await;
    assert!(running(&replicas, &names) <= places);
    site.close(replicas).await;
}

#[tokio::test]
async fn a_function_with_several_replicas_gives_one_up_for_one_that_has_none() {
    let wide = Settings { concurrency: 1, max_scale: 2, ..Settings::default() };
    let kept = Settings { min_scale: 1, ..Settings::default() };
    let site = Site::new().with("wide", HTTPD, wide).with("kept", HTTPD, kept).with(
        "late",
        HTTPD,
        Settings::default(),
    );
    let replicas = site.start_with_places(3).await;
    let (one, two) = tokio::join!(acquire(&replicas, "wide"), acquire(&replicas, "wide"));
    drop(acquire(&replicas, "kept").await);
    let before = replicas.list(&function("kept"))[0].id.clone();
    // Nobody is idle but the one that is to stay: the late one gets the place of whichever of the two ends first.
    let late = tokio::spawn({
        let replicas = replicas.clone();
        async move { inside(&acquire(&replicas, "late").await, "hostname").await }
    });
    let waiting = tokio::spawn({
        let replicas = replicas.clone();
        async move { acquire(&replicas, "wide").await.replica().id.clone() }
    });
    let (first, second) = (one.replica().id.clone(), two.replica().id.clone());
    drop(one);
    drop(two);
    assert_eq!(late.await.unwrap(), "late");
    let served = waiting.await.unwrap();
    assert!(served == first || served == second, "calls of the wide one go on at the replica that it kept");
    assert_eq!(replicas.list(&function("kept"))[0].id, before);
    site.close(replicas).await;
}

#[tokio::test]
async fn a_step_for_the_rate_takes_the_places_that_are_free_and_no_others() {
    let by_rate = Settings { target_rps: 1, scale_factor: 100, ..Settings::default() };
    let site = Site::new().with("busy", HTTPD, by_rate).with("idle", HTTPD, Settings::default());
    let replicas = site.start_with_places(3).await;
    drop(acquire(&replicas, "idle").await);
    let before = replicas.list(&function("idle"))[0].id.clone();
    // Ten a second ask for all four that there may be.
    while replicas.list(&function("busy")).len() < 2 {
        drop(acquire(&replicas, "busy").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let idle: Vec<_> = replicas.list(&function("idle")).into_iter().map(|replica| replica.id).collect();
    assert_eq!(idle, [before]);
    assert_eq!(replicas.list(&function("busy")).len(), 2);
    site.close(replicas).await;
}
