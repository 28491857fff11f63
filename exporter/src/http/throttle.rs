//! Limits the CPU time of work that any client can cause.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::fair_semaphore::{FairPermit, FairSemaphore};

/// Runs one piece of work at a time, and pauses after each for as long as it took. So the work of one `Throttle` takes
/// at most half of a CPU; several throttles are independent of each other.
#[derive(Debug)]
pub struct Throttle(Arc<FairSemaphore>);

impl Default for Throttle {
    fn default() -> Self {
        Self(FairSemaphore::new(1, usize::MAX))
    }
}

impl Throttle {
    /// Waits for the permit and runs `work`. None if the semaphore rejects the request.
    pub async fn run<T>(&self, client: Client, work: impl FnOnce() -> T) -> Option<T> {
        Some(Self::run_with(self.acquire(client).await?, work))
    }

    /// Waits for the permit.
    pub async fn acquire(&self, client: Client) -> Option<FairPermit> {
        self.0.acquire(client).await
    }

    /// Runs `work` with a permit, which is released after a pause.
    pub fn run_with<T>(permit: FairPermit, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        Self::release_after(permit, start.elapsed());
        done
    }

    /// Creates a future and polls it once with the permit; later polls are not limited. The pause is half as long as
    /// the poll took, since many legitimate requests may come at once.
    pub async fn run_first_poll<F: Future + Unpin>(
        permit: FairPermit,
        start: impl FnOnce() -> F,
    ) -> F::Output {
        let begun = Instant::now();
        let mut work = start();
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut work).poll(cx))).await;
        Self::release_after(permit, begun.elapsed() / 2);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => work.await,
        }
    }

    /// Releases the permit after `worked`. On a single-threaded runtime waiting requests become visible only after this returns.
    fn release_after(permit: FairPermit, worked: Duration) {
        tokio::spawn(async move {
            tokio::time::sleep(worked).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_takes_at_most_half_of_the_time() {
        const WORK: Duration = Duration::from_millis(5);
        let throttle = Arc::new(Throttle::default());
        let start = Instant::now();
        let work = |_| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move { throttle.run(Client::UNKNOWN, || std::thread::sleep(WORK)).await })
        };
        for work in (0..10).map(work).collect::<Vec<_>>() {
            work.await.unwrap().unwrap();
        }
        let took = start.elapsed();
        // Ten pieces of work and the pauses between them.
        assert!(took >= 19 * WORK, "{took:?}");
    }

    #[tokio::test]
    async fn waiting_after_the_first_poll_does_not_block_others() {
        let throttle = Throttle::default();
        let (sender, receiver) = oneshot::channel();
        let permit = throttle.acquire(Client::UNKNOWN).await.unwrap();
        let waits = Throttle::run_first_poll(permit, || receiver);
        let other = async {
            tokio::task::yield_now().await;
            throttle.run(Client::UNKNOWN, || sender.send(7).unwrap()).await
        };
        let (first, second) = tokio::join!(waits, other);
        assert_eq!((first, second), (Ok(7), Some(())));
    }
}
