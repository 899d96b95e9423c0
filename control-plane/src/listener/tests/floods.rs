//! Floods of HTTP/2 frames end the connection that they come on, and no other (threat 29).

use tokio::io::DuplexStream;

use super::*;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `POST /` at `http://a` in HPACK, from the static table.
const REQUEST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 0x01, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn begin(connector: &MemoryConnector) -> DuplexStream {
    let mut stream = connector.connect().await.expect("connected");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("written");
    stream
}

/// Sends frames until the other end has had enough; fails when it never has.
async fn flood(stream: DuplexStream, frames: impl Fn(u32) -> Vec<u8>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = tokio::spawn(async move {
        let mut answer = vec![0; 65_536];
        while reader.read(&mut answer).await.is_ok_and(|bytes| bytes > 0) {}
    });
    let write = async {
        for i in 0..1_000_000 {
            if writer.write_all(&frames(i)).await.is_err() {
                return true;
            }
        }
        false
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), write).await;
    read.abort();
    assert_eq!(ended, Ok(true), "the flood was borne");
}

#[tokio::test]
async fn one_request_in_these_frames_is_answered() {
    let (connector, incoming) = memory_listener();
    let _replica = serve(incoming, Endpoint::Memory(connector.clone()), None).await;
    let mut stream = begin(&connector).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, REQUEST)).await.expect("written");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("short")];
            stream.read_exact(&mut payload).await.expect("a payload");
            if head[3] == HEADERS {
                break head[8];
            }
        }
    };
    let stream = tokio::time::timeout(Duration::from_secs(5), answered).await.expect("an answer");
    assert_eq!(stream, 1);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection_alone() {
    let (connector, incoming) = memory_listener();
    let replica = serve(incoming, Endpoint::Memory(connector.clone()), None).await;
    let honest = connect(&replica.endpoint, &Trust::Local).await.expect("connected");
    flood(begin(&connector).await, |i| {
        let stream = 2 * i + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
        [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    })
    .await;
    assert!(check(honest).await.is_ok());
    let another = connect(&replica.endpoint, &Trust::Local).await.expect("still accepting");
    assert!(check(another).await.is_ok());
}

#[tokio::test]
async fn headers_without_end_end_their_connection_alone() {
    let (connector, incoming) = memory_listener();
    let replica = serve(incoming, Endpoint::Memory(connector.clone()), None).await;
    let honest = connect(&replica.endpoint, &Trust::Local).await.expect("connected");
    // A literal header field of 1,000 bytes that is not indexed, again and again.
    let field = [&[0x00, 0x01, b'x', 0x7f, 0xe9, 0x06][..], &[b'y'; 1_000]].concat();
    flood(begin(&connector).await, |i| match i {
        0 => frame(HEADERS, 0, 1, REQUEST),
        _ => frame(CONTINUATION, 0, 1, &field),
    })
    .await;
    assert!(check(honest).await.is_ok());
    let another = connect(&replica.endpoint, &Trust::Local).await.expect("still accepting");
    assert!(check(another).await.is_ok());
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let (connector, incoming) = memory_listener();
    let replica = serve(incoming, Endpoint::Memory(connector.clone()), None).await;
    // Requests whose bodies never end.
    flood(begin(&connector).await, |i| frame(HEADERS, END_HEADERS, 2 * i + 1, REQUEST)).await;
    let another = connect(&replica.endpoint, &Trust::Local).await.expect("still accepting");
    assert!(check(another).await.is_ok());
}
