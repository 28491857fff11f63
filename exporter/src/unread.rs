//! Answers that clients have not taken yet: they share one budget, whoever they are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

/// The bytes that are kept beyond which no other page is made for a selection until some are taken.
const LIMIT: usize = 6 << 20;
/// The same for pages of everything, which strangers' selections shall not keep from being made.
const LIMIT_OF_WHOLE: usize = 12 << 20;

/// How often it is looked whether there is room by now.
const PAUSE: Duration = Duration::from_millis(20);

/// How many bytes of answers are kept.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    /// Told when clients shall take their answers or go.
    pressure: Notify,
}

impl Unread {
    /// A page, which counts until the last who was given it has taken the last byte of it.
    pub fn page(&self, mut bytes: Vec<u8>) -> Bytes {
        bytes.shrink_to_fit();
        let _charge = self.charge(bytes.len());
        Bytes::from_owner(Page { bytes, _charge })
    }

    /// Counts other bytes that are kept for an answer.
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
        self.bytes() >= LIMIT
    }

    /// Waits until another page for a selection may be made.
    pub async fn room(&self) {
        self.below(LIMIT).await;
    }

    /// Waits until another page of everything may be made.
    pub async fn room_for_whole(&self) {
        self.below(LIMIT_OF_WHOLE).await;
    }

    async fn below(&self, limit: usize) {
        while self.bytes() >= limit {
            self.press();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Has connections asked to give way whose clients do not take their answers.
    pub fn press(&self) {
        self.0.pressure.notify_one();
    }

    /// Waits until that is asked for.
    pub async fn pressed(&self) {
        self.0.pressure.notified().await;
    }
}

/// Bytes that count for as long as this is held.
#[derive(Debug)]
pub struct Charge {
    unread: Unread,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.unread.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Page {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_once_and_as_long_as_any_part_of_it_is_kept() {
        let unread = Unread::default();
        let page = unread.page(vec![b'x'; LIMIT]);
        let mut copy = page.clone();
        assert!(unread.is_full());
        assert_eq!(unread.bytes(), LIMIT);
        let tail = copy.split_off(LIMIT - 1);
        drop((page, copy));
        assert!(unread.is_full(), "its last byte is not taken");
        drop(tail);
        assert_eq!(unread.bytes(), 0);
    }
}
