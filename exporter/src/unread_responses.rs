//! Limits the memory of responses that clients have not read yet, over all clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

/// The unread bytes at which no further response for a selection of collectors is created.
const SELECTION_LIMIT: usize = 6 << 20;
/// The same for scrapes of all collectors: higher, so that selections cannot block them.
const FULL_SCRAPE_LIMIT: usize = 12 << 20;

/// How often a waiting request checks whether there is memory.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Counts the bytes of unread responses. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct UnreadResponses(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    /// Notified when requests wait for the memory of unread responses.
    eviction: Notify,
}

impl UnreadResponses {
    /// Counts a response until the last client that it is sent to has read its last byte.
    pub fn track(&self, mut bytes: Vec<u8>) -> Bytes {
        bytes.shrink_to_fit();
        let _charge = self.charge(bytes.len());
        Bytes::from_owner(TrackedBytes { bytes, _charge })
    }

    /// Counts other bytes that are kept for a response, until the charge is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Charge { unread: self.clone(), bytes }
    }

    /// The bytes that are counted now.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether no further response for a selection should be created.
    pub fn is_full(&self) -> bool {
        self.bytes() >= SELECTION_LIMIT
    }

    /// Waits until a further response for a selection may be created.
    pub async fn wait_for_selection(&self) {
        self.wait_below(SELECTION_LIMIT).await;
    }

    /// Waits until a further response for all collectors may be created.
    pub async fn wait_for_full_scrape(&self) {
        self.wait_below(FULL_SCRAPE_LIMIT).await;
    }

    async fn wait_below(&self, limit: usize) {
        while self.bytes() >= limit {
            self.request_eviction();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Requests that connections are closed whose clients do not read their responses; see `http::connection`.
    pub fn request_eviction(&self) {
        self.0.eviction.notify_one();
    }

    /// Waits until [`Self::request_eviction`] is called.
    pub async fn eviction_requested(&self) {
        self.0.eviction.notified().await;
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub struct Charge {
    unread: UnreadResponses,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.unread.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct TrackedBytes {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for TrackedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_counted_once_and_until_all_its_chunks_are_dropped() {
        let unread = UnreadResponses::default();
        let response = unread.track(vec![b'x'; SELECTION_LIMIT]);
        let mut copy = response.clone();
        assert!(unread.is_full());
        assert_eq!(unread.bytes(), SELECTION_LIMIT);
        let last_byte = copy.split_off(SELECTION_LIMIT - 1);
        drop((response, copy));
        assert!(unread.is_full(), "its last byte is not read");
        drop(last_byte);
        assert_eq!(unread.bytes(), 0);
    }
}
