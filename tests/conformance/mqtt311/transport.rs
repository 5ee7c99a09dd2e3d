//! Chapter 7: the transport.

use super::*;

#[test]
fn mqtt311_7_1_1_1_packets_are_a_stream_of_bytes_both_ways() {
    let server = Server::start(&[]);
    let payload = vec![b'x'; 300];
    let requests = [
        &connect(0x06, &[b"client", b"will", b"gone"])[..],
        b"\x82\x06\0\x01\0\x01t\x01",
        &packet(0x32, &[b"\0\x01t\0\x07", &payload]),
        b"\xc0\0",
    ]
    .concat();
    let publish = packet(0x32, &[b"\0\x01t\0\x01", &payload]);
    let answers =
        [ACCEPTED, b"\x90\x03\0\x01\x01", &publish, b"\x40\x02\0\x07", b"\xd0\0"].concat();
    // In pieces of any size, from single bytes to everything at once.
    for size in [1, 2, 3, 7, 64, requests.len()] {
        let mut client = server.open(V3);
        let (last, first) = requests.split_last().unwrap();
        for piece in first.chunks(size) {
            client.send_raw(piece);
        }
        exchange(&mut client, &[*last], &answers);
        client.disconnect();
    }
}
