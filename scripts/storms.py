#!/usr/bin/env python3
"""One storm against a running broker, and what its neighbours noticed. Called by storms.sh.

The neighbours are `ringmq-load pair`: 20 pairs with QoS 1 and 400 messages per second, measured
before the storm and during it.
"""

import argparse
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import scale

PAIRS, RATE = 20, 400
MOST_P99 = 100
# Messages queued for a session.
EACH = 10
MIB = 1 << 20


class Tool:
    """A run of ringmq-load in the background."""

    def __init__(self, storm, name, *words):
        self.result = os.path.join(storm.options.work, f"{name}.json")
        command = [storm.options.load, *map(str, words), "-p", str(storm.options.port),
                   "--json", self.result]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True)
        self.stage, self.lines = "", []
        self.spent = 0.0
        # Since when it has received nothing, if so.
        self.quiet_since = None
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            progress = re.match(r"\s*\d+ s (\w+)", line)
            if progress:
                self.stage = progress.group(1)
            received = re.search(r"([\d.]+ ?[kM]?) recv/s", line)
            if received and received.group(1) != "0.0":
                self.quiet_since = None
            elif self.quiet_since is None:
                self.quiet_since = time.monotonic()

    def wait_for_quiet(self, seconds, most=60):
        """Until it has received nothing for so long, or has ended; `most` seconds at the most."""
        end = time.monotonic() + most
        while self.process.poll() is None and time.monotonic() < end:
            if self.quiet_since is not None and time.monotonic() - self.quiet_since >= seconds:
                return
            time.sleep(0.02)

    def cpu(self):
        """Seconds of processor time, up to the last look if it has ended."""
        self.spent = max(self.spent, scale.cpu_seconds(self.process.pid))
        return self.spent

    def wait_for(self, *stages):
        """Until it says that it has come to one of these stages, or has ended."""
        while self.stage not in stages and self.process.poll() is None:
            self.cpu()
            time.sleep(0.02)

    def interrupt(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        """Its result, when it has ended by itself."""
        self.process.wait()
        self.reader.join(10)
        try:
            with open(self.result, encoding="utf-8") as file:
                return json.load(file)
        except OSError:
            raise RuntimeError("\n".join(self.lines[-5:]) or "the load generator failed") from None


class Shares:
    """Who used the processors since it was made. All that is nobody's here is the kernel's, most of
    it work for sockets, and that of other programs."""

    def __init__(self, who):
        self.who = who
        self.begin, self.before, self.busy_before = time.monotonic(), self.used(), self.busy()

    def used(self):
        return {name: cpu() for name, cpu in self.who.items()}

    def busy(self):
        words = list(map(int, scale.read("/proc/stat").splitlines()[0].split()[1:9]))
        return (sum(words) - words[3] - words[4]) / os.sysconf("SC_CLK_TCK")

    def say(self):
        seconds = time.monotonic() - self.begin
        parts = {name: used - self.before[name] for name, used in self.used().items()}
        busy = self.busy() - self.busy_before
        parts["anything else"] = max(0.0, busy - sum(parts.values()))
        text = ", ".join(f"{name} {part / seconds:.2f}" for name, part in parts.items())
        return f"{busy / seconds:.2f} of {os.cpu_count()} busy: {text}"


class Storm:
    """What a storm needs, and what it has shown."""

    def __init__(self, options):
        self.options, self.missed = options, []
        self.memory = [("at the start", self.broker_memory())]

    def scaled(self, count):
        return max(1, int(count * self.options.scale))

    def tool(self, name, *words):
        return Tool(self, name, *words)

    def neighbours(self):
        tool = self.tool("neighbours", "pair", "-c", PAIRS, "--rate", RATE, "-q", 1, "-s", 64,
                         "--duration", 600, "--workers", 1, "--warmup", 4)
        tool.wait_for("running")
        return tool

    def calm(self):
        """What the neighbours see before the storm."""
        neighbours = self.neighbours()
        time.sleep(4)
        self.say_neighbours("before", neighbours.interrupt())

    def during(self, neighbours):
        self.say_neighbours("during", neighbours.interrupt(), True)

    def say_neighbours(self, when, result, judge=False):
        latency = result["latency_ms"]["end_to_end"]
        worst = max((second["p99_ms"] or 0 for second in result["seconds"]), default=0)
        self.say(f"neighbours {when}",
                 f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.1f} ms, max {latency['max']:.1f} ms, "
                 f"p99 of the worst second {worst:.1f} ms, of which the tool was late by p99 "
                 f"{result['latency_ms']['tool_lateness']['p99']:.1f} ms")
        lost = sum(flow["lost"] for flow in result["flows"]) + result["total"]["lost_connections"]
        self.expect(lost == 0, f"the neighbours lost {lost} messages or connections")
        if judge:
            self.expect(latency["p99"] < MOST_P99, f"the neighbours' p99 was {latency['p99']:.0f} ms")

    def say(self, name, text):
        print(f"  {name:34} {text}", flush=True)

    def expect(self, holds, what):
        if not holds:
            self.missed.append(what)

    def broker_memory(self):
        return scale.fields(f"/proc/{self.options.pid}/status").get("VmRSS", 0)

    def note_memory(self, when):
        self.memory.append((when, self.broker_memory()))

    def cpu(self):
        return scale.cpu_seconds(self.options.pid)

    def shares(self, **tools):
        """Begins to watch who uses the processors."""
        return Shares({"broker": self.cpu} | {name: tool.cpu for name, tool in tools.items()})

    def connected(self, result, name):
        connect, latency = result["connect"], result["latency_ms"]["connect"]
        self.say(name, f"{connect['connected']:,} in {connect['seconds']:.2f} s, "
                 f"{connect['per_second']:,.0f}/s, p50 {latency['p50']:,.0f} ms, p99 "
                 f"{latency['p99']:,.0f} ms, {connect['failed_attempts']:,} attempts failed")
        self.expect(connect["connected"] == result["clients"], f"{name}: not all were connected")
        self.expect(connect["failed_attempts"] == 0, f"{name}: attempts failed")

    def finish(self):
        self.say("broker's memory", ", ".join(f"{when} {size / MIB:,.0f} MiB" for when, size in self.memory))
        for what in self.missed:
            print(f"  MISSED: {what}")
        return not self.missed


# ---- The storms ----------------------------------------------------------------------------------


def reconnect(storm):
    count = storm.scaled(200_000)
    storm.calm()
    before = scale.network_counters()
    tool = storm.tool("storm", "storm", "-c", count, "--rounds", 2, "-t", "dev/%c/cmd",
                      "--connect-timeout", 30, "--settle", 5, "--duration", 3)
    tool.wait_for("settling")
    storm.note_memory("all connected")
    neighbours = storm.neighbours()
    tool.wait_for("storm", "draining")
    shares = storm.shares(storm=tool, neighbours=neighbours)
    tool.wait_for("draining")
    share = shares.say()
    storm.during(neighbours)
    result = tool.end()
    storm.note_memory("at the end")
    storm.connected(result, "the first time")
    for number, round_ in enumerate(result["storms"], 1):
        storm.say(f"storm {number}", f"all {count:,} back after {round_['seconds']:.2f} s, "
                  f"{round_['failed_attempts']:,} attempts failed, {round_['missing']:,} missing")
        storm.expect(round_["failed_attempts"] == 0 and round_["missing"] == 0,
                     "clients saw a failure within 30 s")
    storm.say("processors", share)
    after = scale.network_counters()
    storm.say("kernel's counters", ", ".join(f"{name} {after[name] - before[name]:,}" for name in before))


def take_over(storm):
    count = storm.scaled(200_000)
    words = ("conn", "-c", count, "--prefix", "same", "-t", "dev/%c/cmd", "--connect-timeout", 30)
    storm.calm()
    old = storm.tool("old", *words, "--duration", 600)
    old.wait_for("running")
    storm.note_memory("all connected")
    neighbours = storm.neighbours()
    cpu, begin = storm.cpu(), time.monotonic()
    new = storm.tool("new", *words, "--duration", 2)
    shares = storm.shares(storm=new, old=old, neighbours=neighbours)
    new.wait_for("running")
    seconds, spent, share = time.monotonic() - begin, storm.cpu() - cpu, shares.say()
    storm.note_memory("all taken over")
    storm.during(neighbours)
    result, lost = new.end(), old.interrupt()["total"]["lost_connections"]
    storm.connected(result, "connected again")
    storm.say("old connections closed", f"{lost:,}")
    storm.say("processors", share)
    storm.say("broker", f"{spent / seconds:.2f} cores, {1e6 * spent / count:.1f} us for each")
    storm.expect(lost == count, "not all old connections were closed")


def resume(storm):
    count = storm.scaled(200_000)
    queued = EACH * count
    session = ("sub", "-c", count, "-C", "false", "--prefix", "kept", "-t", "dev/%i/cmd", "-q", 1,
               "--connect-timeout", 30)
    storm.calm()
    storm.tool("first", *session, "--duration", 0.5).end()
    storm.note_memory("sessions")
    begin = time.monotonic()
    # One after the other: of several publishers one would be ahead, and %s counts for each of them.
    filled = 0
    for number in range(EACH):
        fill = storm.tool(f"fill{number}", "pub", "-c", 1, "-t", "dev/%s/cmd", "-L", count, "-q", 1,
                          "-s", 64, "--saturate", "-F", 1000)
        filled += fill.end()["flows"][0]["acknowledged"]
    storm.say("queued", f"{filled:,} messages in {time.monotonic() - begin:.1f} s")
    storm.note_memory("all queued")
    neighbours = storm.neighbours()
    cpu, begin = storm.cpu(), time.monotonic()
    tool = storm.tool("again", *session, "--duration", 600, "--settle", 0)
    shares = storm.shares(storm=tool, neighbours=neighbours)
    tool.wait_for("running", "draining", "warming")
    tool.wait_for_quiet(0)
    spent, share = storm.cpu() - cpu, shares.say()
    storm.during(neighbours)
    # Whether more comes.
    tool.wait_for_quiet(10)
    result = tool.interrupt()
    storm.connected(result, "resumed")
    received = result["total"]["received"]
    last = max((second["at_seconds"] for second in result["seconds"] if second["received_per_second"]), default=0)
    storm.say("messages received", f"{received:,} of {queued:,}, the last in second {last:.0f}")
    storm.say("processors", share)
    storm.say("broker", f"{1e6 * spent / count:.1f} us for each session")
    storm.note_memory("at the end")
    storm.expect(received == queued, f"{queued - received:,} messages are missing")


def subscribe(storm, filter_):
    clients, each = storm.scaled(10_000), 100
    filters = [word for number in range(each) for word in ("-t", filter_ % number)]
    storm.calm()
    neighbours = storm.neighbours()
    cpu = storm.cpu()
    tool = storm.tool("storm", "sub", "-c", clients, *filters, "--duration", 1, "--connect-timeout", 30,
                      "--connecting", 100_000, "--settle", 0.2)
    shares = storm.shares(storm=tool, neighbours=neighbours)
    tool.wait_for("running", "settling", "draining")
    spent, share = storm.cpu() - cpu, shares.say()
    storm.note_memory(f"{clients * each:,} filters")
    storm.during(neighbours)
    result = tool.end()
    storm.connected(result, "clients")
    latency = result["latency_ms"]["subscribe"]
    storm.say("SUBSCRIBE to SUBACK", f"p50 {latency['p50']:,.0f} ms, p99 {latency['p99']:,.0f} ms")
    storm.say("all subscribed", f"{result['connect']['seconds']:.2f} s, "
              f"{clients * each / result['connect']['seconds']:,.0f} filters/s, "
              f"{1e6 * spent / clients / each:.2f} us of broker CPU for each, connecting included")
    storm.say("processors", share)
    grown = storm.memory[-1][1] - storm.memory[0][1]
    storm.say("memory", f"{grown / clients / each:,.0f} B for each filter, connections included")
    storm.note_memory("at the end")


def retained(storm):
    count = storm.scaled(1_000_000)
    storm.calm()
    cpu, begin = storm.cpu(), time.monotonic()
    filled = storm.tool("fill", "pub", "-c", 10, "-t", "kept/%i/%s", "-L", count, "-q", 1, "-s", 64,
                        "-r", "--saturate", "-F", 100).end()
    seconds, spent = time.monotonic() - begin, storm.cpu() - cpu
    done = filled["flows"][0]["acknowledged"]
    storm.say("retained", f"{done:,} in {seconds:.1f} s, {done / seconds:,.0f}/s, "
              f"{1e6 * spent / done:.1f} us of broker CPU for each")
    storm.note_memory("all retained")
    grown = storm.memory[-1][1] - storm.memory[0][1]
    storm.say("memory", f"{grown / count:,.0f} B for each (topic of some 13 bytes, payload of 64)")
    neighbours = storm.neighbours()
    cpu = storm.cpu()
    seconds, got = read_everything(storm.options.port, count)
    spent = storm.cpu() - cpu
    storm.during(neighbours)
    storm.say("new subscriber to #", f"{got:,} in {seconds:.2f} s, {got / seconds:,.0f}/s, "
              f"{1e6 * spent / max(got, 1):.1f} us of broker CPU for each")
    storm.note_memory("at the end")
    storm.expect(done == count and got >= count, "retained messages are missing")


def read_everything(port, count):
    """Subscribes to # and reads: seconds until `count` retained messages are there, and how many."""
    connect = b"\x10\x15\x00\x04MQTT\x04\x02\x00\x00\x00\x09everybody"
    subscribe_ = b"\x82\x06\x00\x01\x00\x01#\x00"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(connect + subscribe_)
        connection.settimeout(5)
        chunks, begin, got, rest, last = [], time.monotonic(), 0, b"", 0.0
        while got < count and time.monotonic() - begin < 120:
            try:
                chunk = connection.recv(1 << 20)
            except TimeoutError:
                break
            if not chunk:
                break
            rest += chunk
            at = 0
            while len(rest) - at >= 5:
                size, used = rest[at + 1], 2
                if size & 0x80:
                    size, used = size & 0x7F | rest[at + 2] << 7, 3
                if len(rest) - at < used + size:
                    break
                # The neighbours' messages come, too, and are not retained.
                got += rest[at] & 0xF1 == 0x31
                at += used + size
            rest = rest[at:]
            last = time.monotonic() - begin
        return max(last, 1e-9), got


STORMS = {
    "reconnect": (reconnect, 201_000),
    "take-over": (take_over, 401_000),
    "resume": (resume, 201_000),
    "subscribe-exact": (lambda storm: subscribe(storm, "dev/%%i/%d/cmd"), 11_000),
    "subscribe-wildcard": (lambda storm: subscribe(storm, "dev/%%i/%d/+"), 11_000),
    "retained": (retained, 1_000),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("list", "flags", "run"))
    parser.add_argument("name", nargs="?", choices=STORMS)
    for name, kind in (("port", int), ("pid", int), ("load", str), ("work", str)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    if options.verb == "list":
        print("\n".join(STORMS))
        return
    storm, connections = STORMS[options.name]
    if options.verb == "flags":
        shards = scale.shards_for(int(connections * options.scale) + 1_000, scale.descriptor_limit())
        print(f"--shards\n{shards}\n--max-retained-messages\n1100000")
        return
    running = Storm(options)
    try:
        storm(running)
    except RuntimeError as error:
        running.expect(False, str(error))
    sys.exit(not running.finish())


if __name__ == "__main__":
    main()
