//! Answers that clients have not taken yet: they share one budget, whoever they are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

/// The bytes of pages that are kept beyond which no other page is made until some are taken.
const LIMIT: usize = 8 << 20;

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
        self.0.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Page { bytes, unread: self.clone() })
    }

    /// Whether no other page should be made.
    pub fn is_full(&self) -> bool {
        self.bytes() >= LIMIT
    }

    /// Bytes of pages that are kept.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Waits until another page may be made.
    pub async fn room(&self) {
        while self.is_full() {
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

struct Page {
    bytes: Vec<u8>,
    unread: Unread,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.unread.0.bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
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
