//! A client of a broker.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyhole_attacks::BROKER;
use keyhole_policy::TABLE;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{DescribeRequest, Outcome, ReadRequest};
use tonic::transport::{Channel, Endpoint};

use super::Ground;

pub fn as_uid(uid: u32, act: impl FnOnce() + Send) {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let act = || {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        act();
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

/// Does `act` with a client of the broker's uid, for a few seconds at most; what it says does not matter.
pub fn ask<F: Future>(ground: &Ground, act: impl FnOnce(BrokerClient<Channel>) -> F + Send) {
    let socket = ground.socket();
    as_uid(BROKER, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let act = async {
            if let Ok(channel) = channel(socket).await {
                act(BrokerClient::new(channel)).await;
            }
        };
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), act).await });
    });
}

async fn channel(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://keyhole").connect_with_connector(connector).await
}

pub fn describe(ground: &Ground) {
    ask(ground, |mut client| async move { client.describe(DescribeRequest {}).await });
}

/// Asks for everything; how many queries were answered in full.
pub fn read_all(ground: &Ground) -> usize {
    let ok = std::sync::atomic::AtomicUsize::new(0);
    ask(ground, |mut client| {
        let ok = &ok;
        async move {
            let queries = TABLE.iter().map(|row| row.query.into()).collect();
            let Ok(answer) = client.read(ReadRequest { queries }).await else { return };
            let mut chunks = answer.into_inner();
            while let Ok(Some(chunk)) = chunks.message().await {
                let ended = chunk.end.is_some_and(|end| end.outcome() == Outcome::Ok);
                ok.fetch_add(usize::from(ended), std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    ok.into_inner()
}
