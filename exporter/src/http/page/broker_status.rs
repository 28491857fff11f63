//! The broker's description of itself, as the page shows it: cached for a second, requested with a short timeout.

use std::sync::Arc;
use std::time::Duration;

use keyhole_proto::v1::DescribeResponse;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::broker_client::BrokerError;
use crate::scrape::Scraper;

/// How long the page waits for the broker. The kubelet gives a probe of the page one second in total.
pub const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a response or a failure is cached, so that many requests for the page do not burden the broker.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The result of the last request to the broker.
#[derive(Debug, Clone, Default)]
pub struct BrokerStatus {
    /// The last description that the broker sent, and when; none if it never sent one.
    pub description: Option<(Arc<DescribeResponse>, Instant)>,
    /// Why the last request failed.
    pub error: Option<BrokerError>,
    requested_at: Option<Instant>,
}

/// Caches the status of the broker and sends one request at a time.
#[derive(Debug, Default)]
pub struct BrokerStatusCache(Arc<Mutex<BrokerStatus>>);

impl BrokerStatusCache {
    /// The status, requested again if it is older than [`MAX_AGE`]. Takes little more than [`DESCRIBE_TIMEOUT`] at most.
    pub async fn get(&self, scraper: &Arc<Scraper>) -> BrokerStatus {
        let (status, scraper) = (Arc::clone(&self.0), Arc::clone(scraper));
        // A task of its own: a client that disconnects must not cancel the request for those that wait behind it.
        let task = tokio::spawn(async move {
            // A client that waits here finds a fresh status afterwards.
            let mut status = status.lock().await;
            if status.requested_at.is_none_or(|at| at.elapsed() >= MAX_AGE) {
                match scraper.describe(Instant::now() + DESCRIBE_TIMEOUT).await {
                    Ok(description) => {
                        status.description = Some((description, Instant::now()));
                        status.error = None;
                    }
                    Err(error) => status.error = Some(error),
                }
                status.requested_at = Some(Instant::now());
            }
            status.clone()
        });
        task.await.unwrap_or(BrokerStatus { error: Some(BrokerError::Deadline), ..BrokerStatus::default() })
    }
}
