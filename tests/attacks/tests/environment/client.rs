//! A client of a broker.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyhole_attacks::BROKER_UID;
use keyhole_policy::TABLE;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{DescribeRequest, Outcome, ReadRequest};
use keyhole_test_support::client::{block_on, try_channel};
use keyhole_test_support::run_as;
use tonic::transport::Channel;

use super::Fixture;

pub fn run_as_uid(uid: u32, act: impl FnOnce() + Send) {
    run_as(uid, uid, act);
}

/// Runs `act` with a client of the broker's uid, for 10 s at most; its result does not matter.
pub fn ask<F: Future>(fixture: &Fixture, act: impl FnOnce(BrokerClient<Channel>) -> F + Send) {
    let socket = fixture.socket();
    run_as_uid(BROKER_UID, || {
        let act = async {
            if let Ok(channel) = try_channel(socket).await {
                act(BrokerClient::new(channel)).await;
            }
        };
        let _ = block_on(async { tokio::time::timeout(Duration::from_secs(10), act).await });
    });
}

pub fn describe(fixture: &Fixture) {
    ask(fixture, |mut client| async move { client.describe(DescribeRequest {}).await });
}

/// Asks for everything; returns how many queries were answered in full.
pub fn read_all(fixture: &Fixture) -> usize {
    let ok = AtomicUsize::new(0);
    ask(fixture, |mut client| {
        let ok = &ok;
        async move {
            let queries = TABLE.iter().map(|row| row.query.into()).collect();
            let Ok(answer) = client.read(ReadRequest { queries }).await else { return };
            let mut chunks = answer.into_inner();
            while let Ok(Some(chunk)) = chunks.message().await {
                let ended = chunk.end.is_some_and(|end| end.outcome() == Outcome::Ok);
                ok.fetch_add(usize::from(ended), Ordering::Relaxed);
            }
        }
    });
    ok.into_inner()
}
