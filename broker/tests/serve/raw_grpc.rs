//! gRPC calls over bare HTTP/2, by a client that decides itself when it reads.

use std::path::Path;

use prost::Message;

/// Makes a gRPC call over a connection of its own; returns the status and the number of bytes received.
pub(crate) async fn call(socket: &Path, path: &str, body: &[u8]) -> (Option<i32>, usize) {
    finish(start_call(socket, path, body).await).await
}

/// Receives the rest of an answer.
pub(crate) async fn finish((mut answer, _client, driver): StartedCall) -> (Option<i32>, usize) {
    let mut status = answer.headers().get("grpc-status").cloned();
    let mut bytes = 0;
    while let Some(data) = answer.body_mut().data().await {
        let data = data.unwrap();
        let _ = answer.body_mut().flow_control().release_capacity(data.len());
        bytes += data.len();
    }
    if let Some(trailers) = answer.body_mut().trailers().await.unwrap() {
        status = status.or(trailers.get("grpc-status").cloned());
    }
    driver.abort();
    (status.map(|status| status.to_str().unwrap().parse().unwrap()), bytes)
}

/// Sends a gRPC call and waits for the headers of its answer.
pub(crate) async fn start_call(socket: &Path, path: &str, body: &[u8]) -> StartedCall {
    let (mut client, driver) = dial(socket).await;
    (send(&mut client, path, body).await.await.unwrap(), client, driver)
}

async fn dial(socket: &Path) -> (Sender, tokio::task::JoinHandle<()>) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, driver)
}

/// Sends this many gRPC calls on one connection, and waits for none.
pub(crate) async fn begin_many(socket: &Path, path: &str, body: &[u8], calls: usize) -> impl Sized {
    let (mut client, driver) = dial(socket).await;
    let mut answers = Vec::new();
    for _ in 0..calls {
        answers.push(send(&mut client, path, body).await);
    }
    (answers, client, driver)
}

async fn send(client: &mut Sender, path: &str, body: &[u8]) -> h2::client::ResponseFuture {
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    std::future::poll_fn(|context| client.poll_ready(context)).await.unwrap();
    let (answer, mut send) = client.send_request(request, false).unwrap();
    send.send_data(bytes::Bytes::copy_from_slice(body), true).unwrap();
    answer
}

type Sender = h2::client::SendRequest<bytes::Bytes>;

/// A call whose answer is still to be received.
pub(crate) type StartedCall = (http::Response<h2::RecvStream>, Sender, tokio::task::JoinHandle<()>);

pub(crate) fn grpc(message: &impl Message) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((message.encoded_len() as u32).to_be_bytes());
    body.extend(message.encode_to_vec());
    body
}
