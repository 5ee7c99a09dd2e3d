#!/usr/bin/env python3
"""The broker while its wall clock is set: clock_test.py PORT SHARDS FILE.

The broker runs under libfaketime, which reads from FILE by how many seconds its wall clock is off;
its monotonic clock is left alone. What is due must come when it is due all the same, and what
people read must show the clock as it is set.
"""

import json
import os
import socket
import struct
import sys
import time

from checks import Checks, WAIT_SECONDS, equal, nothing, true
from paho_test import Client, PORT, SHARDS, PacketTypes, properties, unique

FILE = sys.argv[3]
HOUR, DAY = 3_600, 86_400
# Ahead and back by an hour and by a day, the last two to before the broker was started.
STEPS = [("an hour ahead", 0, HOUR), ("an hour back", HOUR, 0), ("a day back", 0, -DAY),
         ("a day ahead", -DAY, 0), ("an hour back to before the start", 0, -HOUR)]
# Longer than any check takes, and less than any step.
LONG = 600
PRESENCE = "$SYS/brokers/+/clients/"


def set_clock(offset):
    with open(f"{FILE}.new", "w", encoding="ascii") as file:
        file.write(f"{offset:+d}\n")
    os.rename(f"{FILE}.new", FILE)


def shows(seconds, offset, what):
    """Raises unless a time is the present, as a clock shows it that is off by so much."""
    off = seconds - (time.time() + offset)
    true(abs(off) < 60, f"{what} is off by {off:.0f} s")


def step(before, after):
    """Sets the clock and sees that the broker has noticed."""
    with Client() as watcher, Client() as probe:
        watcher.subscribe(f"{PRESENCE}{probe.id}/disconnected", 1)
        set_clock(after)
        probe.disconnect()
        event = json.loads(watcher.next().payload)
        shows(event["time"] / 1_000, after, "the time of the event")
        shows(event["connected_at"], before, "the time of the connection")


class Silent:
    """A client that sends nothing by itself, not even PINGREQ."""

    def __init__(self, client_id, keep_alive):
        name = client_id.encode()
        body = b"\0\4MQTT\5\2" + struct.pack(">HBH", keep_alive, 0, len(name)) + name
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=WAIT_SECONDS)
        self.socket.sendall(bytes([0x10, len(body)]) + body)
        equal(self.packet()[0], 0x20, "the answer to CONNECT")

    def packet(self):
        """The next packet's first byte and body, or an error if the connection ends."""
        first, length = self.exactly(2)
        return first, self.exactly(length)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            true(more, "the connection was closed")
            data += more
        return data

    def ping(self):
        self.socket.sendall(b"\xc0\0")
        equal(self.packet(), (0xD0, b""), "the answer to PINGREQ")


def keep_alive(before, after):
    patient, short = Silent(unique("patient"), LONG), Silent(unique("short"), 3)
    step(before, after)
    patient.ping()
    short.ping()
    first, body = short.packet()
    equal((first, body[0]), (0xE0, 0x8D), "what a silent client is told")
    patient.ping()
    patient.socket.close()
    short.socket.close()


def leaves_will(topic, delay, expiry):
    """A client that is gone without a DISCONNECT, and whose will waits."""
    will = {"topic": topic, "payload": str(delay).encode(), "qos": 1, "properties":
            properties(PacketTypes.WILLMESSAGE, WillDelayInterval=delay)}
    client = Client(client_id=unique("heirless"), will=will)
    client.connect(SessionExpiryInterval=expiry)
    client.drop()
    return client.id


def is_present(client_id):
    """Whether there is a session; ends it."""
    client = Client(client_id=client_id)
    present, _, _ = client.connect(clean=False, SessionExpiryInterval=LONG)
    client.disconnect(SessionExpiryInterval=0)
    return present


def delayed_wills(before, after):
    topic = unique("will/")
    with Client() as watcher:
        watcher.subscribe(topic, 1)
        late = leaves_will(topic, LONG, 2 * LONG)
        leaves_will(topic, 2, 2 * LONG)
        step(before, after)
        equal(watcher.next().payload, b"2", "the will that is due")
        nothing(watcher.messages)
        true(is_present(late), "the session of the other will is gone")
        nothing(watcher.messages)


def session_expiry(before, after):
    topic = unique("will/")
    with Client() as watcher:
        watcher.subscribe(topic, 1)
        long = Client(client_id=unique("long"))
        long.connect(SessionExpiryInterval=LONG)
        long.disconnect()
        # The end of its session, with which its will comes.
        short = leaves_will(topic, LONG, 2)
        step(before, after)
        watcher.next()
        true(not is_present(short), "the session outlived its expiry interval")
        true(is_present(long.id), "the session did not live as long as agreed")


def message_expiry(before, after):
    topic, due = unique("expiry/"), unique("will/")
    sleeper = Client(client_id=unique("sleeper"))
    sleeper.connect(SessionExpiryInterval=LONG)
    sleeper.subscribe(f"{topic}/#", 1)
    sleeper.disconnect()
    with Client() as publisher, Client() as watcher:
        watcher.subscribe(due, 1)
        # One waits in a queue, and one is retained.
        publisher.publish(f"{topic}/short", b"x", retain=True, MessageExpiryInterval=1)
        publisher.publish(f"{topic}/long", b"x", retain=True, MessageExpiryInterval=LONG)
        leaves_will(due, 2, LONG)
        step(before, after)
        watcher.next()
        sleeper = Client(client_id=sleeper.id)
        sleeper.connect(clean=False, SessionExpiryInterval=LONG)
        late = Client()
        late.connect()
        late.subscribe(f"{topic}/#", 1)
        for client in (sleeper, late):
            message = client.next()
            equal(message.topic, f"{topic}/long", "what has not expired")
            left = message.properties.MessageExpiryInterval
            true(LONG - 60 <= left < LONG, f"{left} s are left of {LONG}")
            nothing(client.messages)
        publisher.publish(f"{topic}/long", b"", retain=True)
        sleeper.disconnect(SessionExpiryInterval=0)


def presence(before, after):
    """Clients that were there before, on every shard, and clients that come after."""
    with Client() as watcher:
        clients = [Client() for _ in range(4 * SHARDS)]
        for client in clients:
            watcher.subscribe(f"{PRESENCE}{client.id}/+", 1)
            client.connect()
            event = json.loads(watcher.next().payload)
            shows(event["time"] / 1_000, before, "the time before")
        step(before, after)
        for client in clients:
            client.disconnect()
            event = json.loads(watcher.next().payload)
            shows(event["time"] / 1_000, after, "the time of the end")
            shows(event["connected_at"], before, "the time of the connection")
            with Client(client_id=client.id):
                event = json.loads(watcher.next().payload)
                shows(event["time"] / 1_000, after, "the time of the new connection")
            watcher.next()


def uptime(before, after):
    step(before, after)
    with Client() as watcher:
        watcher.subscribe("$SYS/broker/uptime")
        # The first one may be retained.
        for _ in range(2):
            seconds = int(watcher.next().payload.split()[0])
            true(0 <= seconds < LONG, f"it has run for {seconds} s")


def main():
    checks = Checks("clock", SHARDS, Client.close_all)
    for name, before, after in STEPS:
        for check in (keep_alive, session_expiry, message_expiry, delayed_wills, presence, uptime):
            set_clock(before)
            checks.check(f"{name}, {check.__name__.replace('_', ' ')}", check, before, after)
    checks.finish()


if __name__ == "__main__":
    main()
