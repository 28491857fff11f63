//! What the page knows of the broker: asked for it, with little patience, and at most once a second.

use std::sync::Arc;
use std::time::Duration;

use keyhole_proto::v1::DescribeResponse;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::broker_client::BrokerError;
use crate::scrape::Scraper;

/// How long the page waits for the broker: kubelet gives a probe one second for all of it.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer is taken as true, and a failure as well: who asks for the page often costs the broker nothing.
const FRESH: Duration = Duration::from_secs(1);

/// The broker, as it was when it was last asked.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What it last said of itself, and when; none when it never did.
    pub answer: Option<(Arc<DescribeResponse>, Instant)>,
    /// Why it did not answer this time.
    pub error: Option<BrokerError>,
    at: Option<Instant>,
}

/// One question at a time.
#[derive(Debug, Default)]
pub struct Asked(Arc<Mutex<Known>>);

impl Asked {
    /// What is known, asked anew unless that was a moment ago. Takes [`PATIENCE`] at most, and a little.
    pub async fn broker(&self, scraper: &Arc<Scraper>) -> Known {
        let (known, scraper) = (Arc::clone(&self.0), Arc::clone(scraper));
        // A task of its own: who goes away before the answer must not leave the next one without.
        let asked = tokio::spawn(async move {
            // Whoever waits here finds a fresh answer or a fresh failure behind it.
            let mut known = known.lock().await;
            if known.at.is_none_or(|at| at.elapsed() >= FRESH) {
                match scraper.describe(Instant::now() + PATIENCE).await {
                    Ok(answer) => {
                        known.answer = Some((answer, Instant::now()));
                        known.error = None;
                    }
                    Err(error) => known.error = Some(error),
                }
                known.at = Some(Instant::now());
            }
            known.clone()
        });
        asked.await.unwrap_or(Known { error: Some(BrokerError::Deadline), ..Known::default() })
    }
}
