//! 3.9: SUBACK.

use super::*;

#[test]
fn mqtt311_3_9_3_2_a_filter_that_is_refused_has_code_0x80() {
    let server = Server::start(&["--max-subscriptions=2", "--max-topic-levels=3"]);
    let mut client = server.connect(V3, "client");
    // Refused for its levels, granted, granted, refused for the number.
    let request = packet(
        0x82,
        &[
            b"\0\x01",
            &field(b"a/b/c/d"),
            b"\x01",
            &field(b"a/b/c"),
            b"\x02",
            &field(b"b"),
            b"\0",
            &field(b"c"),
            b"\x01",
        ],
    );
    exchange(&mut client, &request, b"\x90\x06\0\x01\x80\x02\0\x80");
    client.publish("c", "refused", Q0);
    client.publish("b", "granted", Q0);
    client.expect_message("b", "granted");
    client.expect_nothing();
}
