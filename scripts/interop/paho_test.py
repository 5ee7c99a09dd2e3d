#!/usr/bin/env python3
"""Eclipse Paho for Python against a broker: paho_test.py PORT SHARDS."""

import gc
import queue
import socket
import sys
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from checks import Checks, WAIT_SECONDS, equal, nothing, take, take_many, true

PORT, SHARDS = int(sys.argv[1]), int(sys.argv[2])
VERSIONS = {paho.MQTTv31: "3.1", paho.MQTTv311: "3.1.1", paho.MQTTv5: "5.0"}
NAMES = iter(range(1_000_000))
# The broker's defaults: docs/configuration.md.
MAX_INFLIGHT, RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM = 32, 100, 32


def unique(kind):
    """A topic or client id that no other check uses."""
    return f"{kind}{next(NAMES)}"


def properties(packet_type, **values):
    result = Properties(packet_type)
    for name, value in values.items():
        setattr(result, name, value)
    return result


class Client:
    """A Paho client whose callbacks feed queues, and whose calls wait for the answer."""

    # Those of the present check: what it leaves open is closed behind it, for Paho waits with
    # select(), which knows no more than 1,024 descriptors.
    open = []

    def __init__(self, version=paho.MQTTv5, client_id=None, manual_ack=False, will=None,
                 clean_session=None):
        self.version = version
        self.id = unique("paho") if client_id is None else client_id
        if clean_session is None:
            clean_session = not client_id
        if version == paho.MQTTv5:
            clean_session = None  # connect() has it.
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id=self.id, protocol=version,
                                clean_session=clean_session, reconnect_on_failure=False,
                                manual_ack=manual_ack)
        self.paho.max_inflight_messages_set(50)
        if will:
            self.paho.will_set(**will)
        self.open.append(self)
        self.messages, self.connected, self.disconnected = (queue.Queue() for _ in range(3))
        self.answers = queue.Queue()
        self.paho.on_message = lambda _client, _data, message: self.messages.put(message)
        self.paho.on_connect = lambda _c, _d, *answer: self.connected.put(answer)
        self.paho.on_disconnect = lambda _c, _d, _f, reason, props: \
            self.disconnected.put((reason, props))
        self.paho.on_subscribe = lambda _c, _d, _mid, codes, _p: self.answers.put(codes)
        self.paho.on_unsubscribe = lambda _c, _d, _mid, codes, _p: self.answers.put(codes)

    def connect(self, clean=None, **values):
        """Connects; returns whether a session was present, the reason and the properties."""
        arguments = {}
        if self.version == paho.MQTTv5:
            arguments["clean_start"] = clean is not False
            arguments["properties"] = properties(PacketTypes.CONNECT, **values)
        self.paho.connect("127.0.0.1", PORT, keepalive=30, **arguments)
        self.paho.loop_start()
        flags, reason, props = take(self.connected, "the CONNACK")
        return flags.session_present, reason, props

    @classmethod
    def close_all(cls):
        for client in cls.open:
            client.paho.disconnect()
            client.paho.loop_stop()
        cls.open.clear()
        gc.collect()

    def __enter__(self):
        if not self.paho.is_connected():
            self.connect()
        return self

    def __exit__(self, *_):
        self.disconnect()

    def disconnect(self, reason=None, **values):
        arguments = {}
        if self.version == paho.MQTTv5 and (reason or values):
            arguments["properties"] = properties(PacketTypes.DISCONNECT, **values)
            if reason:
                arguments["reasoncode"] = ReasonCode(PacketTypes.DISCONNECT, reason)
        self.paho.disconnect(**arguments)
        self.paho.loop_stop()

    def drop(self):
        """Ends the connection without a DISCONNECT."""
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.paho.loop_stop()

    def subscribe(self, topic, qos=0, props=None, **options):
        """Subscribes; returns the reason codes as numbers."""
        if self.version == paho.MQTTv5:
            self.paho.subscribe(topic, options=SubscribeOptions(qos=qos, **options),
                                properties=props)
        else:
            self.paho.subscribe(topic, qos)
        return [code.value for code in take(self.answers, "the SUBACK")]

    def unsubscribe(self, topic):
        self.paho.unsubscribe(topic)
        return [code.value for code in take(self.answers, "the UNSUBACK")]

    def publish(self, topic, payload=b"", qos=1, retain=False, **values):
        """Publishes and waits until it is acknowledged."""
        self.publish_later(topic, payload, qos, retain, **values).wait_for_publish(WAIT_SECONDS)

    def publish_later(self, topic, payload=b"", qos=1, retain=False, **values):
        arguments = {}
        if values:
            arguments["properties"] = properties(PacketTypes.PUBLISH, **values)
        info = self.paho.publish(topic, payload, qos, retain, **arguments)
        equal(info.rc, paho.MQTT_ERR_SUCCESS, "the status of publish()")
        return info

    def next(self):
        return take(self.messages)

    def payloads(self, count):
        return [message.payload for message in take_many(self.messages, count)]

    def acknowledge(self, message):
        self.paho.ack(message.mid, message.qos)


def numbers(first, last):
    return [str(n).encode() for n in range(first, last)]


# All versions.


def every_qos(version):
    topic = unique("plain/")
    with Client(version) as subscriber, Client(version) as publisher:
        for granted in range(3):
            equal(subscriber.subscribe(topic, granted), [granted], "the SUBACK")
            for qos in range(3):
                publisher.publish(topic, b"x", qos)
                message = subscriber.next()
                equal((message.topic, message.payload, message.qos, message.retain),
                      (topic, b"x", min(qos, granted), False), "the message")
        nothing(subscriber.messages)


def wildcards_and_unsubscribe(version):
    base = unique("wild")
    with Client(version) as subscriber, Client(version) as publisher:
        subscriber.subscribe(f"{base}/+/x", 1)
        subscriber.subscribe(f"{base}/#", 1)
        publisher.publish(f"{base}/1/x", b"both")
        publisher.publish(base, b"parent")
        equal([m.payload for m in (subscriber.next(), subscriber.next())], [b"both", b"parent"])
        subscriber.unsubscribe(f"{base}/#")
        publisher.publish(f"{base}/1/y", b"none")
        publisher.publish(f"{base}/2/x", b"one")
        equal(subscriber.next().payload, b"one")
        nothing(subscriber.messages)


def retained(version):
    topic = unique("kept/")
    with Client(version) as publisher:
        publisher.publish(topic, b"a", 1, retain=True)
        publisher.publish(topic, b"b", 2, retain=True)
        with Client(version) as subscriber:
            subscriber.subscribe(topic, 2)
            message = subscriber.next()
            equal((message.payload, message.qos, message.retain), (b"b", 2, True))
            publisher.publish(topic, b"", 1, retain=True)
            message = subscriber.next()
            equal((message.payload, message.retain), (b"", False), "the message that clears")
        with Client(version) as subscriber:
            subscriber.subscribe(topic, 2)
            nothing(subscriber.messages)


def will(version):
    topic = unique("will/")
    message = {"topic": topic, "payload": b"gone", "qos": 2, "retain": False}
    with Client(version) as watcher:
        watcher.subscribe(topic, 2)
        with Client(version, will=message):
            pass
        nothing(watcher.messages)
        client = Client(version, will=message)
        client.connect()
        client.drop()
        got = watcher.next()
        equal((got.payload, got.qos, got.retain), (b"gone", 2, False), "the will")


def exactly_once(version):
    """1,000 messages at QoS 2, sent with many in flight: each comes once and in order."""
    topic, count = unique("exact/"), 1000
    with Client(version) as subscriber, Client(version) as publisher:
        subscriber.subscribe(topic, 2)
        sent = [publisher.publish_later(topic, payload, 2) for payload in numbers(0, count)]
        equal(subscriber.payloads(count), numbers(0, count), "the messages")
        for info in sent:
            info.wait_for_publish(WAIT_SECONDS)
        nothing(subscriber.messages)


def resumes(version):
    """What was queued and what was in flight comes after the client has come back."""
    topic, client_id = unique("session/"), unique("resumer")
    values = {"SessionExpiryInterval": 60} if version == paho.MQTTv5 else {}
    client = Client(version, client_id, manual_ack=True)
    equal(client.connect(clean=False, **values)[0], False, "session present at first")
    client.subscribe(topic, 1)
    with Client(version) as publisher:
        for payload in numbers(0, 3):
            publisher.publish(topic, payload, 1)
        first = take_many(client.messages, 3)
        client.acknowledge(first[0])
        # The next delivery of that packet id would follow the PUBACK: so it has arrived.
        client.publish(unique("flush/"), b"", 1)
        client.drop()
        for payload in numbers(3, 6):
            publisher.publish(topic, payload, 1)
    client = Client(version, client_id)
    # The CONNACK of MQTT 3.1 does not say.
    equal(client.connect(clean=False, **values)[0], version != paho.MQTTv31, "session present")
    got = take_many(client.messages, 5)
    equal([m.payload for m in got], numbers(1, 6), "what comes on resume")
    equal([m.dup for m in got], [True] * 2 + [False] * 3, "the DUP flags")
    equal([m.mid for m in got[:2]], [m.mid for m in first[1:]], "the packet ids in flight")
    client.disconnect()
    # A clean start ends it.
    client = Client(version, client_id, clean_session=True)
    equal(client.connect(clean=True)[0], False, "session present after a clean start")
    with Client(version) as publisher:
        publisher.publish(topic, b"nobody subscribes", 1)
    nothing(client.messages)
    client.disconnect()


def resumes_exactly_once(version):
    """QoS 2 in both directions through ten cut connections: nothing lost, nothing twice."""
    topic, client_id, count = unique("cut/"), unique("cutter"), 200
    values = {"SessionExpiryInterval": 60} if version == paho.MQTTv5 else {}
    with Client(version) as publisher:
        client = Client(version, client_id)
        client.connect(clean=False, **values)
        client.subscribe(topic, 2)
        sent = [publisher.publish_later(topic, payload, 2) for payload in numbers(0, count)]
        for _ in range(10):
            # The same Paho client keeps its half of the session.
            client.drop()
            client.connect(clean=False, **values)
        equal(client.payloads(count), numbers(0, count), "the messages")
        nothing(client.messages)
        client.disconnect()
        for info in sent:
            info.wait_for_publish(WAIT_SECONDS)


def window(version):
    """No more messages in flight than the window allows; an acknowledgement lets the next go."""
    topic, count = unique("window/"), MAX_INFLIGHT + 20
    with Client(version, manual_ack=True) as subscriber, Client(version) as publisher:
        subscriber.subscribe(topic, 1)
        for payload in numbers(0, count):
            publisher.publish(topic, payload, 1)
        held = take_many(subscriber.messages, MAX_INFLIGHT)
        nothing(subscriber.messages)
        subscriber.acknowledge(held[0])
        held.append(subscriber.next())
        nothing(subscriber.messages)
        for message in held[1:]:
            subscriber.acknowledge(message)
        held += take_many(subscriber.messages, count - len(held))
        equal([m.payload for m in held], numbers(0, count), "the messages")


def shared(version):
    topic, count = unique("shared/"), 300
    members = [Client(version) for _ in range(3)]
    with members[0], members[1], members[2], Client(version) as publisher:
        for member in members:
            equal(member.subscribe(f"$share/team/{topic}", 1), [1], "the SUBACK")
        for payload in numbers(0, count):
            publisher.publish_later(topic, payload, 1)
        got = [member.payloads(count // 3) for member in members]
        equal(sorted(map(int, sum(got, []))), list(range(count)), "all shares together")
        for member in members:
            nothing(member.messages, 0.1)
        # One leaves without a word: as soon as the broker knows, the others get everything.
        publisher.subscribe(f"$SYS/brokers/+/clients/{members[0].id}/disconnected", 1)
        members[0].drop()
        publisher.next()
        for payload in numbers(0, 40):
            publisher.publish(topic, payload, 1)
        got = [members[1].messages, members[2].messages]
        both = [take_many(member, 20) for member in got]
        equal(sorted(int(m.payload) for m in sum(both, [])), list(range(40)))


def take_over(version):
    client_id, topic = unique("twin"), unique("twin/")
    first, second = Client(version, client_id), Client(version, client_id)
    first.connect(clean=False)
    second.connect(clean=False)
    reason, _ = take(first.disconnected, "the end of the first connection")
    if version == paho.MQTTv5:
        equal(reason.value, 0x8E, "the reason code")
    second.subscribe(topic, 1)
    second.publish(topic, b"x", 1)
    equal(second.next().payload, b"x")
    second.disconnect()
    first.paho.loop_stop()


def many_clients(version):
    """100 clients at once: each hears what one says."""
    topic, count = unique("crowd/"), 100
    clients = [Client(version) for _ in range(count)]

    def start(client):
        client.connect()
        client.subscribe(topic, 1)

    threads = [threading.Thread(target=start, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    with Client(version) as publisher:
        for payload in numbers(0, 20):
            publisher.publish(topic, payload, 1)
    for client in clients:
        equal(client.payloads(20), numbers(0, 20), "what one of them got")
    for client in clients:
        client.disconnect()


# MQTT 5.


def capabilities():
    client = Client(client_id="")
    present, reason, props = client.connect()
    equal((present, reason.value), (False, 0))
    true(props.AssignedClientIdentifier, "no assigned client identifier")
    equal(props.ReceiveMaximum, RECEIVE_MAXIMUM, "Receive Maximum")
    equal(props.TopicAliasMaximum, TOPIC_ALIAS_MAXIMUM, "Topic Alias Maximum")
    equal(props.MaximumPacketSize, 1024 * 1024, "Maximum Packet Size")
    client.disconnect()


def publish_properties():
    topic = unique("props/")
    with Client() as subscriber, Client() as publisher:
        subscriber.subscribe(topic, 2)
        pairs = [("b", "1"), ("a", "2"), ("b", "1")]
        publisher.publish(topic, "ü", 2, UserProperty=pairs, ContentType="text/plain",
                          ResponseTopic="answers", CorrelationData=b"\0\1", MessageExpiryInterval=60,
                          PayloadFormatIndicator=1)
        got = subscriber.next().properties
        equal(got.UserProperty, pairs, "the user properties")
        equal((got.ContentType, got.ResponseTopic, got.CorrelationData, got.PayloadFormatIndicator),
              ("text/plain", "answers", b"\0\1", 1), "the properties")
        true(58 <= got.MessageExpiryInterval <= 60, f"expiry {got.MessageExpiryInterval}")


def subscription_ids():
    base = unique("ids")
    with Client() as client:
        def with_id(number):
            return properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number)
        client.subscribe(f"{base}/+", 1, with_id(7))
        client.subscribe(f"{base}/#", 2, with_id(268_435_455))
        client.subscribe(f"{base}/a", 0)
        client.publish(f"{base}/a", b"x", 2)
        message = client.next()
        equal(sorted(message.properties.SubscriptionIdentifier), [7, 268_435_455], "the ids")
        equal(message.qos, 2, "the QoS")
        client.subscribe(f"{base}/+", 1, with_id(8))
        client.publish(f"{base}/a", b"y", 0)
        equal(sorted(client.next().properties.SubscriptionIdentifier), [8, 268_435_455],
              "the ids after one was replaced")
        nothing(client.messages)


def retain_handling():
    topic = unique("handling/")
    with Client() as client:
        client.publish(topic, b"kept", 1, retain=True)
        client.subscribe(topic, 1, retainHandling=2)
        nothing(client.messages)
        client.subscribe(topic, 1, retainHandling=1)
        nothing(client.messages)
        client.subscribe(topic, 1, retainHandling=0)
        equal(client.next().payload, b"kept", "with 0, on an old subscription")
        client.unsubscribe(topic)
        client.subscribe(topic, 1, retainHandling=1)
        equal(client.next().payload, b"kept", "with 1, on a new subscription")
        client.subscribe(f"$share/g/{topic}", 1)
        nothing(client.messages)
        client.publish(topic, b"", 1, retain=True)


def retain_as_published_and_no_local():
    topic = unique("options/")
    with Client() as client, Client() as other:
        client.subscribe(topic, 1, retainAsPublished=True, noLocal=True)
        client.publish(topic, b"own", 1)
        other.publish(topic, b"kept", 1, retain=True)
        other.publish(topic, b"plain", 1)
        got = [client.next(), client.next()]
        equal([(m.payload, m.retain) for m in got], [(b"kept", True), (b"plain", False)])
        nothing(client.messages)
        other.publish(topic, b"", 1, retain=True)


def message_expiry():
    topic, client_id = unique("expiry/"), unique("expirer")
    client = Client(client_id=client_id)
    client.connect(SessionExpiryInterval=60)
    client.subscribe(topic, 1)
    client.disconnect()
    with Client() as publisher:
        publisher.publish(topic, b"short", 1, MessageExpiryInterval=1)
        publisher.publish(topic, b"long", 1, MessageExpiryInterval=100)
        publisher.publish(topic, b"retained", 1, retain=True, MessageExpiryInterval=1)
    # Time itself is what is tested.
    time.sleep(2.1)
    client = Client(client_id=client_id)
    equal(client.connect(clean=False, SessionExpiryInterval=60)[0], True, "session present")
    message = client.next()
    equal(message.payload, b"long", "the message")
    true(95 <= message.properties.MessageExpiryInterval <= 98,
         f"{message.properties.MessageExpiryInterval} s are left of 100 after 2")
    client.subscribe(topic, 1)
    nothing(client.messages)
    client.disconnect(SessionExpiryInterval=0)


def session_expiry():
    client_id = unique("expiring")

    def visit(clean=False, **values):
        client = Client(client_id=client_id)
        present, _, _ = client.connect(clean=clean, **values)
        return client, present

    client, _ = visit(SessionExpiryInterval=60)
    client.disconnect()
    client, present = visit(SessionExpiryInterval=1)
    true(present, "the session did not outlive its connection")
    client.disconnect()
    time.sleep(2.1)
    client, present = visit(SessionExpiryInterval=60)
    true(not present, "the session outlived its expiry interval")
    client.disconnect(SessionExpiryInterval=0)
    client, present = visit()
    true(not present, "the session outlived a DISCONNECT that ends it")
    client.disconnect()


def will_delay():
    topic, client_id = unique("delayed/"), unique("delayer")
    message = {"topic": topic, "payload": b"late", "qos": 1, "properties":
               properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1, ContentType="text/plain")}

    def visit():
        client = Client(client_id=client_id, will=message)
        client.connect(clean=False, SessionExpiryInterval=60)
        return client

    with Client() as watcher:
        watcher.subscribe(topic, 1)
        visit().drop()
        nothing(watcher.messages, 0.5)
        got = watcher.next()
        equal((got.payload, got.properties.ContentType), (b"late", "text/plain"), "the will")
        visit().drop()
        client = visit()
        nothing(watcher.messages, 2)
        client.disconnect(reason="Disconnect with will message")
        equal(watcher.next().payload, b"late", "the will of a DISCONNECT that asks for it")
        # The end of the session comes before the end of the delay.
        client = Client(client_id=client_id, will=message)
        client.connect(clean=True, SessionExpiryInterval=0)
        client.drop()
        take(watcher.messages, "the will of a session that has ended", 0.8)


def aliases_to_broker():
    topics = [unique("alias/") for _ in range(2)]
    with Client() as subscriber, Client() as publisher:
        subscriber.subscribe("alias/#", 1)
        publisher.publish(topics[0], b"1", 1, TopicAlias=1)
        publisher.publish("", b"2", 1, TopicAlias=1)
        publisher.publish(topics[1], b"3", 0, TopicAlias=1)
        publisher.publish("", b"4", 2, TopicAlias=1)
        got = [subscriber.next() for _ in range(4)]
        equal([(m.topic, m.payload) for m in got],
              [(topics[0], b"1"), (topics[0], b"2"), (topics[1], b"3"), (topics[1], b"4")])
        # Paho may hear of the end before publish() has returned, which then says so.
        too_high = properties(PacketTypes.PUBLISH, TopicAlias=TOPIC_ALIAS_MAXIMUM + 1)
        publisher.paho.publish(topics[0], b"5", 1, properties=too_high)
        reason, _ = take(publisher.disconnected, "the DISCONNECT")
        equal(reason.value, 0x94, "the reason code of an alias too high")


def aliases_from_broker():
    topic = unique("alias/")
    client = Client()
    client.connect(TopicAliasMaximum=2)
    with Client() as publisher:
        client.subscribe(topic, 1)
        for payload in numbers(0, 3):
            publisher.publish(topic, payload, 1)
        got = [client.next() for _ in range(3)]
        equal([m.payload for m in got], numbers(0, 3))
        equal(got[0].topic, topic, "the topic of the message that sets the alias")
        equal([m.topic for m in got[1:]], ["", ""], "the topics of those that use it")
        equal({m.properties.TopicAlias for m in got}, {1}, "the alias")
    client.disconnect()


def receive_maximum():
    topic = unique("window/")
    client = Client(manual_ack=True)
    client.connect(ReceiveMaximum=3)
    with Client() as publisher:
        client.subscribe(topic, 2)
        for payload in numbers(0, 10):
            publisher.publish(topic, payload, 1)
        publisher.publish(topic, b"unlimited", 0)
        first = take_many(client.messages, 3)
        equal([m.payload for m in first], numbers(0, 3))
        equal(client.next().payload, b"unlimited", "the message at QoS 0")
        nothing(client.messages)
        waiting = first
        got = []
        while waiting:
            client.acknowledge(waiting[0])
            got.append(waiting.pop(0).payload)
            if len(got) + len(waiting) < 10:
                waiting.append(client.next())
        equal(got, numbers(0, 10), "the messages")
    client.disconnect()


def maximum_packet_size():
    topic = unique("size/")
    client = Client()
    client.connect(MaximumPacketSize=200)
    with Client() as publisher:
        client.subscribe(topic, 1)
        publisher.publish(topic, b"x" * 300, 1)
        publisher.publish(topic, b"fits", 1)
        equal(client.next().payload, b"fits", "the message that fits")
        # Paho may hear of it while it is still writing.
        publisher.paho.publish(topic, b"x" * (1024 * 1024), 0)
        reason, _ = take(publisher.disconnected, "the DISCONNECT")
        equal(reason.value, 0x95, "the reason code of a packet too large")
    client.disconnect()


def reason_codes():
    topic = unique("codes/")
    with Client() as client:
        equal(client.unsubscribe(topic), [0x11], "the UNSUBACK without a subscription")
        client.subscribe(topic)
        equal(client.unsubscribe(topic), [0x00], "the UNSUBACK")
        acks = queue.Queue()
        client.paho.on_publish = lambda _c, _d, _mid, reason, _p: acks.put(reason.value)
        client.publish(topic, b"", 1)
        equal(take(acks, "the PUBACK"), 0x10, "the PUBACK without subscribers")
        client.subscribe(topic)
        client.publish(topic, b"", 1)
        equal(take(acks, "the PUBACK"), 0x00, "the PUBACK")


def request_and_response():
    service, answers = unique("service/"), unique("answers/")
    with Client() as server, Client() as caller:
        server.subscribe(service, 1)
        caller.subscribe(answers, 1)
        caller.publish(service, b"2+2", 1, ResponseTopic=answers, CorrelationData=b"42")
        request = server.next()
        server.publish(request.properties.ResponseTopic, b"4", 1,
                       CorrelationData=request.properties.CorrelationData)
        answer = caller.next()
        equal((answer.payload, answer.properties.CorrelationData), (b"4", b"42"), "the answer")


def main():
    checks = Checks("paho", SHARDS, Client.close_all)
    for version, name in VERSIONS.items():
        for check in (every_qos, wildcards_and_unsubscribe, retained, will, exactly_once, resumes,
                      resumes_exactly_once, window, shared, take_over, many_clients):
            checks.check(f"MQTT {name}, {check.__name__.replace('_', ' ')}", check, version)
    for check in (capabilities, publish_properties, subscription_ids, retain_handling,
                  retain_as_published_and_no_local, message_expiry, session_expiry, will_delay,
                  aliases_to_broker, aliases_from_broker, receive_maximum, maximum_packet_size,
                  reason_codes, request_and_response):
        checks.check(f"MQTT 5.0, {check.__name__.replace('_', ' ')}", check)
    checks.finish()


if __name__ == "__main__":
    main()
