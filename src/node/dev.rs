//! `chronarch dev`: a local cluster of real node processes in one terminal.
//!
//! Each node is this very program run as `server`, so what is tried out is what is shipped. The nodes'
//! logs come out on stderr, each line behind the node's number. Ctrl-C stops them cleanly; if a node
//! ends by itself, it is said, and the others go on: kill one to see what happens.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::local::{LocalCluster, LocalError, LocalOptions};

/// Ports of the first node; the others follow. The client ports are the CLI's default endpoints.
pub const PORTS: (u16, u16) = (7_401, 7_501);

/// Runs the cluster until `stop` is cancelled, then stops it cleanly. `say` gets what people should read.
///
/// # Errors
/// [`LocalError`] when it does not start; nothing runs then.
pub async fn run(
    options: LocalOptions,
    stop: CancellationToken,
    say: impl Fn(&str),
) -> Result<(), LocalError> {
    let mut cluster = LocalCluster::prepare(options)?;
    let mut logs = JoinSet::new();
    for node in cluster.nodes() {
        let pid = cluster.start(node)?;
        if let Some(log) = cluster.take_log(node) {
            logs.spawn(copy(node, log));
        }
        say(&format!("node {node}     pid {pid}, {}", cluster.endpoint(node)));
    }
    say(&format!("endpoints  {}", cluster.endpoints().join(",")));
    say(&format!("metrics    http://{}/metrics", cluster.endpoint(1)));
    say("stop with Ctrl-C");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            ended = cluster.wait_any() => match ended {
                Some((node, Ok(status))) => say(&format!("node {node} has ended: {status}")),
                Some((node, Err(error))) => say(&format!("node {node} cannot be watched: {error}")),
                None => break,
            },
        }
    }
    cluster.stop_all().await;
    while logs.join_next().await.is_some() {}
    Ok(())
}

/// Copies a node's log to stderr, each line behind the node's number.
async fn copy(node: u64, log: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(log).lines();
    let mut out = tokio::io::stderr();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = format!("{node} | {line}\n");
        if tokio::io::AsyncWriteExt::write_all(&mut out, line.as_bytes()).await.is_err() {
            return;
        }
    }
}
