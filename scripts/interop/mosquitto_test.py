#!/usr/bin/env python3
"""Mosquitto's command-line clients against a broker: mosquitto_test.py PORT SHARDS."""

import json
import queue
import subprocess
import sys
import threading

from checks import Checks, WAIT_SECONDS, equal, nothing, take, take_many, true

PORT, SHARDS = sys.argv[1], int(sys.argv[2])
VERSIONS = {"mqttv31": "3.1", "mqttv311": "3.1.1", "mqttv5": "5.0"}
NAMES = iter(range(1_000_000))


def unique(kind):
    """A topic or client id that no other check uses."""
    return f"{kind}{next(NAMES)}"


def client_command(program, version, *arguments):
    return [program, "-h", "127.0.0.1", "-p", PORT, "-V", version, *map(str, arguments)]


def publish(*arguments, version="mqttv311", text=None):
    """Publishes and returns when the client has ended, successfully."""
    done = subprocess.run(client_command("mosquitto_pub", version, *arguments), input=text,
                          capture_output=True, text=True, timeout=4 * WAIT_SECONDS, check=False)
    equal((done.returncode, done.stderr), (0, ""), "mosquitto_pub's status and errors")


class Subscriber:
    """A running mosquitto_sub; each message is a list of the fields of its format."""

    FIELDS = ["%t", "%q", "%r", "%p"]

    def __init__(self, *arguments, version="mqttv311", fields=None, subscribes=True):
        fields = fields or self.FIELDS
        command = client_command("mosquitto_sub", version, "-d", "-F",
                                 "message\x1f" + "\x1f".join(fields), *arguments)
        self.messages, self.subscribed = queue.Queue(), queue.Queue()
        # Its debug lines say when it has subscribed, but without a terminal they come late.
        self.process = subprocess.Popen(["stdbuf", "-oL", *command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if subscribes:
            try:
                take(self.subscribed, "the SUBACK")
            except AssertionError:
                self.kill()
                raise

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("message\x1f"):
                self.messages.put(line.rstrip("\n").split("\x1f")[1:])
            elif line.startswith("Subscribed (mid"):
                self.subscribed.put(line)

    def next(self):
        return take(self.messages)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self._end()
        except subprocess.TimeoutExpired:
            # Its signal handler sends the DISCONNECT, and waits for ever for a lock that the
            # program holds when the signal comes in the middle of a packet.
            self.kill()

    def kill(self):
        """Ends it without a DISCONNECT."""
        self.process.kill()
        self._end()

    def wait(self):
        """Waits until it ends by itself."""
        status = self.process.wait(timeout=WAIT_SECONDS)
        self.reader.join(WAIT_SECONDS)
        equal(status, 0, "mosquitto_sub's status")

    def _end(self):
        self.process.wait(timeout=WAIT_SECONDS)
        self.reader.join(WAIT_SECONDS)


def delivers(publisher, subscriber, qos):
    topic = unique("plain/")
    with Subscriber("-t", topic, "-q", qos, version=subscriber) as client:
        publish("-t", topic, "-q", qos, "-m", "hello", version=publisher)
        equal(client.next(), [topic, str(qos), "0", "hello"], "the message")
        nothing(client.messages)


def qos_is_the_lower_of_both(version):
    topic = unique("qos/")
    with Subscriber("-t", topic, "-q", 1, version=version) as client:
        publish("-t", topic, "-q", 2, "-m", "a", version=version)
        publish("-t", topic, "-q", 0, "-m", "b", version=version)
        equal([client.next()[1:], client.next()[1:]], [["1", "0", "a"], ["0", "0", "b"]])


def wildcards(version):
    base = unique("wild")
    with Subscriber("-t", f"{base}/+/c", "-t", f"{base}/tail/#", version=version) as client:
        for topic in ("a/c", "a/b/c", "tail", "tail/x/y", "a/d"):
            publish("-t", f"{base}/{topic}", "-q", 1, "-m", topic, version=version)
        equal(sorted(client.next()[3] for _ in range(3)), ["a/c", "tail", "tail/x/y"])
        nothing(client.messages)


def retained(version):
    topic = unique("kept/")
    publish("-t", topic, "-q", 1, "-r", "-m", "old", version=version)
    publish("-t", topic, "-q", 1, "-r", "-m", "new", version=version)
    for pattern in (topic, topic.replace("kept", "+")):
        with Subscriber("-t", pattern, "-q", 1, version=version) as client:
            equal(client.next(), [topic, "1", "1", "new"], "the retained message")
            publish("-t", topic, "-q", 1, "-m", "live", version=version)
            equal(client.next(), [topic, "1", "0", "live"], "the live message")
    publish("-t", topic, "-q", 1, "-r", "-n", version=version)
    with Subscriber("-t", topic, "-q", 1, version=version) as client:
        nothing(client.messages)


def will(version):
    topic = unique("will/")
    with Subscriber("-t", topic, "-q", 1, version=version) as watcher:
        arguments = ["-t", unique("other/"), "--will-topic", topic, "--will-payload", "gone",
                     "--will-qos", 1]
        with Subscriber(*arguments, version=version):
            pass
        if version == "mqttv5":
            # Told to end, it sends reason code 0x04: Disconnect with Will Message.
            equal(watcher.next()[3], "gone", "the will of a DISCONNECT that asks for it")
        nothing(watcher.messages)
        Subscriber(*arguments, version=version).kill()
        equal(watcher.next(), [topic, "1", "0", "gone"], "the will")


def retained_will(version):
    topic = unique("will/")
    with Subscriber("-t", topic, version=version) as watcher:
        Subscriber("-t", unique("other/"), "--will-topic", topic, "--will-payload", "gone",
                   "--will-retain", version=version).kill()
        watcher.next()
    with Subscriber("-t", topic, version=version) as late:
        equal(late.next(), [topic, "0", "1", "gone"], "the will")


def persistent_session(version):
    topic, client_id = unique("offline/"), unique("sleeper")
    session = ["-c", "-i", client_id, "-q", 2, "-t", topic]
    Subscriber(*session, "-E", version=version, subscribes=False).wait()
    for number in range(6):
        publish("-t", topic, "-q", 1 + number % 2, "-m", number, version=version)
    publish("-t", topic, "-q", 0, "-m", "QoS 0 is not kept", version=version)
    client = Subscriber(*session, "-C", 6, version=version, subscribes=False)
    client.wait()
    # A QoS 2 message is printed at its PUBREL: the order counts for each QoS.
    got = sorted((client.next()[1:] for _ in range(6)), key=lambda fields: fields[0])
    equal(got, [["1", "0", str(n)] for n in (0, 2, 4)] + [["2", "0", str(n)] for n in (1, 3, 5)],
          "what was kept")
    # A clean session ends it.
    Subscriber("-i", client_id, "-t", unique("other/"), "-E", version=version,
               subscribes=False).wait()
    publish("-t", topic, "-q", 1, "-m", "lost", version=version)
    with Subscriber("-c", "-i", client_id, "-t", unique("other/"), version=version) as client:
        nothing(client.messages)


def stream(version, qos):
    topic, count = unique("stream/"), 1000
    with Subscriber("-t", topic, "-q", qos, version=version) as client:
        text = "".join(f"line {n}\n" for n in range(count))
        publish("-t", topic, "-q", qos, "-l", version=version, text=text)
        got = [fields[3] for fields in take_many(client.messages, count)]
        equal(got, [f"line {n}" for n in range(count)], "the lines")
        nothing(client.messages)


def shared(version):
    topic, count = unique("shared/"), 200
    filters = ["-q", 1, "-t", f"$share/workers/{topic}"]
    with Subscriber(*filters, version=version) as one, \
            Subscriber(*filters, version=version) as two, \
            Subscriber("-t", topic, "-q", 1, version=version) as all_of_them:
        publish("-t", topic, "-q", 1, "-l", version=version,
                text="".join(f"{n}\n" for n in range(count)))
        equal([int(m[3]) for m in take_many(all_of_them.messages, count)], list(range(count)))
        shares = [[int(m[3]) for m in take_many(member.messages, count // 2)]
                  for member in (one, two)]
        equal(sorted(shares[0] + shares[1]), list(range(count)), "both shares together")
        nothing(one.messages)
        nothing(two.messages)


def large_payload(version):
    topic, payload = unique("large/"), "0123456789abcdef" * 50_000
    with Subscriber("-t", topic, "-q", 1, version=version) as client:
        publish("-t", topic, "-q", 1, "-s", version=version, text=payload)
        true(client.next()[3] == payload, "the payload differs")


def takes_over(version):
    client_id, topic = unique("twin"), unique("twin/")
    first = Subscriber("-i", client_id, "-t", topic, version=version)
    with first, Subscriber("-t", f"{topic}/#", version=version) as second:
        # The first one connects again after a second: so the broker is asked at once.
        with Subscriber("-i", client_id, "-t", f"{topic}/new", version=version) as replacement:
            publish("-t", f"{topic}/new", "-m", "hello", version=version)
            equal(replacement.next()[3], "hello")
            equal(second.next()[3], "hello")


def system_topics(version):
    wanted = {"version", "uptime", "clients/connected", "messages/received", "bytes/sent",
              "subscriptions/count", "load/messages/received/1min"}
    with Subscriber("-t", "$SYS/broker/#", version=version) as client:
        seen = {}
        while not wanted <= seen.keys():
            topic, _, _, payload = client.next()
            seen[topic.removeprefix("$SYS/broker/")] = payload
    true(seen["version"].startswith("ringmq "), f"the version is {seen['version']}")
    true(int(seen["clients/connected"]) >= 0, "clients/connected is no number")


def hash_sees_no_system_topics(version):
    topic = unique("marker/")
    with Subscriber("-t", "#", version=version) as client:
        publish("-t", topic, "-q", 1, "-m", "end", version=version)
        while True:
            got = client.next()
            true(not got[0].startswith("$"), f"# got {got[0]}")
            if got[0] == topic:
                break


def presence(version):
    client_id = unique("device")
    with Subscriber("-t", f"$SYS/brokers/+/clients/{client_id}/+", "-q", 1,
                    version=version) as watcher:
        leaving = Subscriber("-i", client_id, "-u", "owner", "-t", unique("x/"), version=version)
        topic, _, retain, payload = watcher.next()
        event = json.loads(payload)
        equal(topic.rsplit("/", 1)[1], "connected")
        equal((event["client_id"], event["user_name"], event["protocol"], retain),
              (client_id, "owner", f"MQTT {VERSIONS[version]}", "0"), "the event")
        with leaving:
            pass
        topic, _, _, payload = watcher.next()
        equal(topic.rsplit("/", 1)[1], "disconnected")
        true(json.loads(payload)["reason"], "no reason given")


def properties():
    topic = unique("props/")
    fields = ["%p", "%C", "%R", "%D", "%F", "%P", "%E"]
    with Subscriber("-t", topic, version="mqttv5", fields=fields) as client:
        publish("-t", topic, "-m", "x", "-D", "publish", "content-type", "text/plain",
                "-D", "publish", "response-topic", "answers", "-D", "publish",
                "correlation-data", "c0de", "-D", "publish", "payload-format-indicator", 1,
                "-D", "publish", "user-property", "b", "1", "-D", "publish", "user-property", "a",
                "2", "-D", "publish", "message-expiry-interval", 60, version="mqttv5")
        *got, expiry = client.next()
        equal(got, ["x", "text/plain", "answers", "c0de", "1", "b:1 a:2"], "the properties")
        true(59 <= int(expiry) <= 60, f"the expiry is {expiry}")


def main():
    checks = Checks("mosquitto", SHARDS)
    for version, name in VERSIONS.items():
        for qos in range(3):
            checks.check(f"MQTT {name}, QoS {qos}", delivers, version, version, qos)
        for check in (qos_is_the_lower_of_both, wildcards, retained, will, retained_will,
                      persistent_session, shared, large_payload, takes_over, system_topics,
                      hash_sees_no_system_topics, presence):
            checks.check(f"MQTT {name}, {check.__name__.replace('_', ' ')}", check, version)
    for publisher in VERSIONS:
        for subscriber in VERSIONS:
            if publisher != subscriber:
                checks.check(f"MQTT {VERSIONS[publisher]} to MQTT {VERSIONS[subscriber]}",
                             delivers, publisher, subscriber, 2)
    for version, qos in (("mqttv31", 1), ("mqttv311", 2), ("mqttv5", 0), ("mqttv5", 2)):
        checks.check(f"MQTT {VERSIONS[version]}, 1,000 messages at QoS {qos}", stream, version, qos)
    checks.check("MQTT 5.0, properties", properties)
    checks.finish()


if __name__ == "__main__":
    main()
