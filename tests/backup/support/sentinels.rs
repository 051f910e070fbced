//! What the Sentinels of a cluster know.

use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, until};

/// How long one may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The replicas that each Sentinel of a cluster lists, by their addresses.
pub async fn known_replicas(cluster: &Cluster) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for sentinel in 0..cluster.sentinels().len() {
        let request = ["SENTINEL", "REPLICAS", cluster.master_name()];
        let ask = async || cluster.ask_sentinel(sentinel, &request).await.map_err(|error| error.to_string());
        let reply = until("a Sentinel's replicas", LIMIT, ask).await.unwrap();
        let mut names: Vec<String> =
            reply.items().iter().filter_map(|item| item.field("name").map(str::to_owned)).collect();
        names.sort();
        all.push(names);
    }
    all
}
