//! A client library that knows nothing of this broker, in MQTT 3.1.1 and 5.0.

mod support;

use std::time::Duration;

use support::{Server, over_shards};

const WAIT: Duration = support::PATIENCE;
const COUNT: usize = 200;

/// One test for both of its modules: they have the same names, and types of their own.
macro_rules! exchange {
    ($name:ident, $client:ty, $connection:ty, $options:ty, $event:path, $packet:path, $qos:path,
     $clean:ident) => {
        mod $name {
            use super::*;
            use $event as Event;
            use $packet as Packet;
            use $qos as QoS;

            fn connect(server: &Server, id: &str, clean: bool) -> ($client, $connection) {
                let address = server.address();
                let mut options = <$options>::new(id, address.ip().to_string(), address.port());
                options.set_keep_alive(Duration::from_secs(5));
                options.$clean(clean);
                <$client>::new(options, 1_000)
            }

            /// Incoming packets until one that `wanted` has a use for.
            fn wait<T>(
                connection: &mut $connection,
                mut wanted: impl FnMut(Packet) -> Option<T>,
            ) -> T {
                loop {
                    match connection.recv_timeout(WAIT).expect("an event").expect("a connection") {
                        Event::Incoming(packet) => {
                            if let Some(found) = wanted(packet) {
                                return found;
                            }
                        }
                        Event::Outgoing(_) => {}
                    }
                }
            }

            #[test]
            fn messages_of_every_qos_arrive_in_order() {
                over_shards(&[], |server| {
                    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                        let id = format!("subscriber-{qos:?}");
                        let (subscriber, mut incoming) = connect(server, &id, true);
                        subscriber.subscribe("t/+", qos).unwrap();
                        wait(&mut incoming, |p| matches!(p, Packet::SubAck(_)).then_some(()));
                        let id = format!("publisher-{qos:?}");
                        let (publisher, mut acks) = connect(server, &id, true);
                        let sender = std::thread::spawn(move || {
                            for n in 0..COUNT {
                                publisher.publish("t/x", qos, false, n.to_string()).unwrap();
                            }
                            publisher.disconnect().unwrap();
                            while let Ok(Ok(_)) = acks.recv_timeout(WAIT) {}
                        });
                        for n in 0..COUNT {
                            let publish = wait(&mut incoming, |packet| match packet {
                                Packet::Publish(publish) => Some(publish),
                                _ => None,
                            });
                            assert_eq!(&publish.payload[..], n.to_string().as_bytes());
                            assert_eq!(publish.qos, qos);
                        }
                        subscriber.disconnect().unwrap();
                        while let Ok(Ok(_)) = incoming.recv_timeout(WAIT) {}
                        sender.join().unwrap();
                    }
                });
            }

            #[test]
            fn retained_messages_come_to_new_subscribers() {
                over_shards(&[], |server| {
                    let (publisher, mut acks) = connect(server, "publisher", true);
                    publisher.publish("kept", QoS::AtLeastOnce, true, "value").unwrap();
                    wait(&mut acks, |p| matches!(p, Packet::PubAck(_)).then_some(()));
                    let (subscriber, mut incoming) = connect(server, "subscriber", true);
                    subscriber.subscribe("+", QoS::AtLeastOnce).unwrap();
                    let publish = wait(&mut incoming, |packet| match packet {
                        Packet::Publish(publish) => Some(publish),
                        _ => None,
                    });
                    assert!(publish.retain);
                    assert_eq!(&publish.payload[..], b"value");
                });
            }

            #[test]
            fn a_taken_over_client_notices() {
                over_shards(&[], |server| {
                    let (_first, mut events) = connect(server, "same", true);
                    wait(&mut events, |p| matches!(p, Packet::ConnAck(_)).then_some(()));
                    let (_second, mut second) = connect(server, "same", true);
                    wait(&mut second, |p| matches!(p, Packet::ConnAck(_)).then_some(()));
                    loop {
                        match events.recv_timeout(WAIT).expect("an event") {
                            Ok(_) => {}
                            Err(_) => break,
                        }
                    }
                });
            }
        }
    };
}

exchange!(
    v4,
    rumqttc::Client,
    rumqttc::Connection,
    rumqttc::MqttOptions,
    rumqttc::Event,
    rumqttc::Packet,
    rumqttc::QoS,
    set_clean_session
);
exchange!(
    v5,
    rumqttc::v5::Client,
    rumqttc::v5::Connection,
    rumqttc::v5::MqttOptions,
    rumqttc::v5::Event,
    rumqttc::v5::mqttbytes::v5::Packet,
    rumqttc::v5::mqttbytes::QoS,
    set_clean_start
);

/// Shows: MQTT311-7.0.0-2
#[test]
fn a_persistent_session_of_3_1_1_keeps_its_messages() {
    use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
    over_shards(&[], |server| {
        let connect = |id: &str| -> (Client, Connection) {
            let address = server.address();
            let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
            options.set_clean_session(false);
            Client::new(options, 100)
        };
        let wait = |connection: &mut Connection, done: &mut dyn FnMut(Packet) -> bool| loop {
            let event = connection.recv_timeout(WAIT).expect("an event").expect("a connection");
            if let Event::Incoming(packet) = event
                && done(packet)
            {
                return;
            }
        };
        let (subscriber, mut events) = connect("subscriber");
        subscriber.subscribe("t", QoS::ExactlyOnce).unwrap();
        wait(&mut events, &mut |packet| matches!(packet, Packet::SubAck(_)));
        subscriber.disconnect().unwrap();
        while let Ok(Ok(_)) = events.recv_timeout(WAIT) {}
        let (publisher, mut acks) = connect("publisher");
        for n in 0..50 {
            publisher.publish("t", QoS::ExactlyOnce, false, n.to_string()).unwrap();
        }
        let mut complete = 0;
        wait(&mut acks, &mut |packet| {
            complete += usize::from(matches!(packet, Packet::PubComp(_)));
            complete == 50
        });
        let (_subscriber, mut events) = connect("subscriber");
        let mut next = 0;
        wait(&mut events, &mut |packet| {
            match packet {
                Packet::ConnAck(ack) => assert!(ack.session_present),
                Packet::Publish(publish) => {
                    assert_eq!(&publish.payload[..], next.to_string().as_bytes());
                    next += 1;
                }
                _ => {}
            }
            next == 50
        });
    });
}
