//! A running broker that ends with its test.

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{DescribeRequest, DescribeResponse, Query};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{self, Answer, block_on, channel};
use crate::{ChildProcess, broker_gid, broker_uid, run_as};

#[derive(Debug)]
pub struct Broker {
    pub process: ChildProcess,
    pub socket: PathBuf,
}

impl Broker {
    /// Runs `act` with a client of the broker's own uid.
    pub fn ask<T: Send, F: Future<Output = T>>(
        &self,
        act: impl FnOnce(BrokerClient<Channel>) -> F + Send,
    ) -> T {
        self.ask_as(broker_uid(), act)
    }

    /// Runs `act` with a client of a uid, which is in the socket's group.
    pub fn ask_as<T: Send, F: Future<Output = T>>(
        &self,
        uid: u32,
        act: impl FnOnce(BrokerClient<Channel>) -> F + Send,
    ) -> T {
        run_as(uid, broker_gid(), || {
            block_on(async { act(BrokerClient::new(channel(self.socket.clone()).await)).await })
        })
    }

    pub fn describe(&self) -> DescribeResponse {
        self.ask(|mut client| async move { client.describe(DescribeRequest {}).await.unwrap().into_inner() })
    }

    /// Reads queries; retries for as long as the rate limit refuses.
    pub fn read(&self, queries: &[Query]) -> Vec<Answer> {
        self.ask(|mut client| async move {
            loop {
                match client::read(&mut client, queries).await {
                    Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    answers => return answers.unwrap(),
                }
            }
        })
    }

    pub fn health(&self) -> ServingStatus {
        run_as(broker_uid(), broker_gid(), || {
            block_on(async {
                let mut client = HealthClient::new(channel(self.socket.clone()).await);
                let service = "keyhole.v1.Broker".to_owned();
                client.check(HealthCheckRequest { service }).await.unwrap().into_inner().status()
            })
        })
    }

    /// A plain connection of the broker's own uid.
    pub fn connect(&self) -> UnixStream {
        run_as(broker_uid(), broker_gid(), || client::connect(&self.socket))
    }
}
