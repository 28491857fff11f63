//! Answers that clients have not taken yet: they share one budget, whoever they are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

/// Unread bytes from which on no other page is made for a selection.
const SELECTION_LIMIT: usize = 6 << 20;
/// The same for pages of everything: higher, so that selections do not keep them from being made.
const FULL_SCRAPE_LIMIT: usize = 12 << 20;

/// How often a page that waits for room looks whether there is some.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The budget: bytes of answers that clients have not taken. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct UnreadResponses(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    /// Notified when others wait for the room that unread answers take.
    pressure: Notify,
}

impl UnreadResponses {
    /// A page, which counts until the last client that it is sent to has taken its last byte.
    pub fn track(&self, mut bytes: Vec<u8>) -> Bytes {
        bytes.shrink_to_fit();
        let _charge = self.charge(bytes.len());
        Bytes::from_owner(TrackedBytes { bytes, _charge })
    }

    /// Counts other bytes that are kept for an answer, until the charge is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Charge { unread: self.clone(), bytes }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether no other page for a selection should be made.
    pub fn is_full(&self) -> bool {
        self.bytes() >= SELECTION_LIMIT
    }

    /// Waits until another page for a selection may be made.
    pub async fn wait_for_selection(&self) {
        self.wait_below(SELECTION_LIMIT).await;
    }

    /// Waits until another page of everything may be made.
    pub async fn wait_for_full_scrape(&self) {
        self.wait_below(FULL_SCRAPE_LIMIT).await;
    }

    async fn wait_below(&self, limit: usize) {
        while self.bytes() >= limit {
            self.request_eviction();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Has those connections closed whose clients do not take their answers; see `http::connection`.
    pub fn request_eviction(&self) {
        self.0.pressure.notify_one();
    }

    /// Waits until [`Self::request_eviction`] is called.
    pub async fn eviction_requested(&self) {
        self.0.pressure.notified().await;
    }
}

/// Bytes that count for as long as this is held.
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
    fn a_page_counts_once_and_as_long_as_any_part_of_it_is_kept() {
        let unread = UnreadResponses::default();
        let page = unread.track(vec![b'x'; SELECTION_LIMIT]);
        let mut copy = page.clone();
        assert!(unread.is_full());
        assert_eq!(unread.bytes(), SELECTION_LIMIT);
        let tail = copy.split_off(SELECTION_LIMIT - 1);
        drop((page, copy));
        assert!(unread.is_full(), "its last byte is not taken");
        drop(tail);
        assert_eq!(unread.bytes(), 0);
    }
}
