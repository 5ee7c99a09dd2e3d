#!/usr/bin/env python3
"""Measures what durability costs and what it holds; called by durable.sh, which explains it."""

import argparse
import collections
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import adversary_clients as clients
import compare
import scale

MIB = 1 << 20
# Clients, pairs or sessions of the rates.
CLIENTS = 1000
# A fixed rate, half of what is to be reached on two cores.
RATE = 25_000

RINGMQ_FLAGS = ("--pin false --max-inflight 1000 --max-queued-messages 10000000 "
                "--max-queued-bytes 1GiB --sys-interval 1s --log-level info")

# What Mosquitto promises depends on when it saves: all of its state, whenever it does.
MOSQUITTO_CONFIG = f"""listener {{port}} {compare.HOST}
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 1000
max_queued_messages 0
persistence true
persistence_location {{folder}}/
log_type none
"""

Kind = collections.namedtuple("Kind", "name promise flags config holds")

# holds: whether a SIGKILL may take nothing that was acknowledged.
KINDS = (
    Kind("ringmq always", "acknowledged = on the disk (fsync, shared)", "--data-dir {folder}", None, True),
    Kind("ringmq interval:1s", "acknowledged = in the system's hands; on the disk within 1 s",
         "--data-dir {folder} --durability interval:1s", None, True),
    Kind("ringmq os", "acknowledged = in the system's hands", "--data-dir {folder} --durability os",
         None, True),
    Kind("ringmq in memory", "nothing", "--in-memory", None, False),
    Kind("mosquitto", "what was there at the last save: every 30 minutes, and at its end", None,
         "autosave_interval 1800\n", False),
    Kind("mosquitto on change", "the same, saved whenever something has changed, about once a second at most",
         None, "autosave_on_changes true\nautosave_interval 1\n", False),
)

Row = collections.namedtuple("Row", "title words others away", defaults=(True, False))

ROWS = {
    "online": Row("pairs, every subscriber has a persistent session and is there, as fast as possible",
                  f"pair -c {CLIENTS} -q 1 -C false --saturate"),
    "online-25k": Row(f"the same at {RATE:,} messages a second",
                      f"pair -c {CLIENTS} -q 1 -C false --rate {RATE}"),
    "away": Row("each message for a persistent session that is away, as fast as possible, then SIGKILL",
                f"pub -c {CLIENTS} -t away/%i -q 1 --saturate -F 100", away=True),
    "away-25k": Row(f"the same at {RATE:,} messages a second",
                    f"pub -c {CLIENTS} -t away/%i -q 1 --rate {RATE}", away=True),
    "clean-q0": Row("pairs with clean sessions, QoS 0, 20,000 messages a second: nothing is to be kept",
                    f"pair -c {CLIENTS} -q 0 --rate 20000", others=False),
    "clean-q1": Row("the same, QoS 1", f"pair -c {CLIENTS} -q 1 --rate 20000", others=False),
}


class Trial:
    """A broker on a data folder of its own."""

    def __init__(self, kind, options, flags=""):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="durable.", dir=os.environ["FOLDER"])
        data = os.path.join(self.folder, "data")
        if kind.config is None:
            ringmq = shlex.quote(os.environ["RINGMQ"])
            command = (f"{ringmq} --listen {compare.HOST}:{{port}} {RINGMQ_FLAGS} {flags} "
                       + kind.flags.replace("{folder}", data))
            self.broker = compare.Broker("ringmq", command)
        else:
            os.mkdir(data)
            config = MOSQUITTO_CONFIG.replace("{folder}", data) + kind.config
            # Started by root it becomes another user, whose the folder has to be.
            if os.getuid() == 0:
                config += "user root\n"
            command = shlex.quote(os.environ["MOSQUITTO"]) + " -c {config}"
            self.broker = compare.Broker("mosquitto", command, config)

    def start(self, patience=20):
        begin = time.monotonic()
        self.broker.start(self.options.work, patience)
        return time.monotonic() - begin

    @property
    def pid(self):
        return self.broker.process.pid

    def kill(self):
        os.killpg(self.pid, signal.SIGKILL)
        self.broker.process.wait()

    def memory(self):
        return scale.fields(f"/proc/{self.pid}/status").get("VmRSS", 0)

    def written(self):
        """Bytes that it has given to the disk so far."""
        lines = scale.read(f"/proc/{self.pid}/io").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes")), 0)

    def load(self, words, patience=300):
        """One run of ringmq-load: its result."""
        if self.broker.process.poll() is not None:
            raise compare.Failure(f"the broker has ended: {self.broker.tail()}")
        _, result = compare.run_load(shlex.split(words), self.broker, self.options.work, patience)
        gave_up = result["connect"]["gave_up"]
        if gave_up or result["broker_gone"]:
            raise compare.Failure(f"{gave_up} clients could not connect, or the broker was gone")
        return result

    def store_figures(self):
        """What RingMQ tells of its store below $SYS; empty for others."""
        found = read_retained(self.broker.now, "$SYS/broker/store/", ("syncs", "syncs/microseconds"))
        return {name: int(value) for name, value in found.items()}

    def end(self):
        self.broker.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_retained(port, prefix, names):
    """The retained messages of these topics below `prefix`, as text; fewer if not all come soon."""
    found, data = {}, b""
    with socket.create_connection((compare.HOST, port), timeout=2) as client:
        client.sendall(clients.connect_packet(b"reader") + clients.subscribe_packet(prefix.encode() + b"#"))
        while not found.keys() >= set(names):
            try:
                chunk = client.recv(65536)
            except TimeoutError:
                break
            if not chunk:
                break
            packets, data = clients.packets(data + chunk)
            for first, body in packets:
                if first & 0xF0 == clients.PUBLISH:
                    end = 2 + int.from_bytes(body[:2], "big")
                    # Behind the topic are the properties, with their length in front.
                    payload = body[end + 1 + body[end]:]
                    found[body[2:end].decode().removeprefix(prefix)] = payload.decode()
    return found


class Report:
    """Prints tables, keeps raw data, and knows what was missed."""

    def __init__(self, options):
        self.options, self.missed = options, []

    def raw(self, **what):
        with open(self.options.raw, "a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def expect(self, holds, what):
        if not holds:
            self.missed.append(what)

    def finish(self):
        for what in self.missed:
            print(f"MISSED: {what}")
        return not self.missed


# ---- Rates ---------------------------------------------------------------------------------------


def sessions(trial, count, first=0, duration=0.5):
    """Makes sessions that are away afterwards, or lets them come back."""
    return trial.load(f"sub -n {first} -c {count} -C false --prefix away -t away/%i -q 1 --settle 0 "
                      f"--duration {duration} --connect-timeout 60")


def come_back(trial, count, expected):
    """Lets all sessions come back: messages that they get until there are enough, or none come."""
    received = 0
    for _ in range(20):
        got = sessions(trial, count, duration=3)["total"]["received"]
        received += got
        if received >= expected or not got:
            break
    return received


def rate(kind, row, options):
    """One run: what it shows."""
    trial = Trial(kind, options)
    try:
        trial.start()
        if row.away:
            sessions(trial, CLIENTS)
        stored, written = trial.store_figures(), trial.written()
        result = trial.load(f"{row.words} -s 64 --duration {options.seconds} --drain 1 --pid {trial.pid}")
        # RingMQ's figures are made once a second.
        time.sleep(1.2 if kind.config is None else 0)
        stored_after = trial.store_figures()
        measured, latency = result["measured"], result["latency_ms"]
        counted = measured["counts"]["acknowledged"] or measured["counts"]["sent"]
        acknowledged = result["total"]["acknowledged"] or result["total"]["sent"]
        shown = {
            "rate": counted / measured["seconds"],
            "cpu_us": 1e6 * measured["broker_cpu_seconds"] / max(1, counted),
            "cores": measured["broker_cpu_share"],
            "disk_bytes": (trial.written() - written) / max(1, acknowledged),
            "lost": sum(flow["lost"] for flow in result["flows"]),
            "acknowledged": acknowledged,
        }
        for name, key in (("ack", "publish_ack"), ("end", "end_to_end")):
            if latency.get(key):
                shown |= {f"{name}_p50": latency[key]["p50"], f"{name}_p99": latency[key]["p99"]}
        syncs = stored_after.get("syncs", 0) - stored.get("syncs", 0)
        if syncs:
            took = stored_after["syncs/microseconds"] - stored["syncs/microseconds"]
            shown |= {"syncs_per_message": syncs / acknowledged, "sync_ms": took / syncs / 1000}
        if row.away:
            trial.kill()
            shown["restart"] = trial.start()
            shown["came_back"] = come_back(trial, CLIENTS, acknowledged)
        return shown, result
    finally:
        trial.end()


def rates(options, report):
    for key, row in ROWS.items():
        kinds = KINDS if row.others else [kind for kind in KINDS if kind.name in
                                          ("ringmq always", "ringmq in memory")]
        shown = {kind.name: [] for kind in kinds}
        for run in range(options.runs):
            turn = run % len(kinds)
            for kind in [*kinds[turn:], *kinds[:turn]]:
                try:
                    figures, result = rate(kind, row, options)
                    shown[kind.name].append(figures)
                    report.raw(row=key, kind=kind.name, run=run, figures=figures, load=result)
                    if row.away and kind.holds:
                        missing = figures["acknowledged"] - figures["came_back"]
                        report.expect(missing <= 0, f"{key}, {kind.name}: {missing:,} acknowledged "
                                                    "messages did not come back")
                except compare.Failure as failure:
                    report.raw(row=key, kind=kind.name, run=run, failure=str(failure))
                    print(f"{key}, {kind.name}: {failure}", file=sys.stderr)
                    report.expect(kind.config is not None, f"{key}, {kind.name}: {failure}")
        print_rates(row, kinds, shown)
    print("What an acknowledgement means:")
    for kind in KINDS:
        print(f"  {kind.name:20} {kind.promise}")


def print_rates(row, kinds, shown):
    print(f"{row.title}:\n")
    print(f"  {'':20} {'messages/s':>10} {'us CPU':>7} {'cores':>6} {'ack p50':>8} {'p99 ms':>8} "
          f"{'disk B':>7} {'sync ms':>8} {'each for':>9}" + ("  after SIGKILL" if row.away else ""))
    for kind in kinds:
        runs = shown[kind.name]
        if not runs:
            print(f"  {kind.name:20} no figure")
            continue

        def median(name):
            values = [run[name] for run in runs if name in run]
            return statistics.median(values) if values else None

        def cell(name, width, digits):
            value = median(name)
            return f"{value:{width},.{digits}f}" if value is not None else f"{'-':>{width}}"

        each = median("syncs_per_message")
        line = (f"  {kind.name:20} {cell('rate', 10, 0)} {cell('cpu_us', 7, 2)} {cell('cores', 6, 2)} "
                f"{cell('ack_p50', 8, 2)} {cell('ack_p99', 8, 1)} {cell('disk_bytes', 7, 0)} "
                f"{cell('sync_ms', 8, 2)} {1 / each if each else 0:9,.0f}")
        if row.away:
            back, sent = sum(run["came_back"] for run in runs), sum(run["acknowledged"] for run in runs)
            line += f"  {min(back, sent):,} of {sent:,} came back ({cell('restart', 1, 1)} s)"
        print(line, flush=True)
    print()


# ---- Sessions that are away ----------------------------------------------------------------------


def shards_flag(connections):
    return f"--shards {scale.shards_for(connections + 1_000, scale.descriptor_limit())}"


def offline(options, report):
    count = max(1, int(200_000 * options.scale))
    each = 10
    print(f"{count:,} persistent sessions with a subscription each, then {each} messages of 64 B for each, "
          "QoS 1, while all are away:\n")
    for kind in (KINDS[0], KINDS[3], KINDS[4]):
        trial = Trial(kind, options, shards_flag(count))
        try:
            trial.start()
            stages = [("at the start", trial.memory())]
            # One descriptor table is all that Mosquitto has.
            at_a_time = scale.descriptor_limit() * 3 // 4 if kind.config else count
            for first in range(0, count, at_a_time):
                sessions(trial, min(at_a_time, count - first), first)
            stages.append(("sessions, all away", trial.memory()))
            begin, cpu = time.monotonic(), scale.cpu_seconds(trial.pid)
            filled = trial.load(f"pub -c 10 -t away/%s -L {each * count} -q 1 -s 64 --saturate -F 100")
            # %s counts through all messages of a publisher, so each session gets some.
            seconds, spent = time.monotonic() - begin, scale.cpu_seconds(trial.pid) - cpu
            stages.append(("all queued", trial.memory()))
            done = filled["total"]["acknowledged"]
            if kind.holds:
                trial.kill()
                took = trial.start(300)
                stages.append((f"after SIGKILL and a start of {took:.1f} s", trial.memory()))
            print(f"  {kind.name}: {done:,} queued in {seconds:.1f} s, {1e6 * spent / max(1, done):.1f} us CPU each")
            first = stages[0][1]
            for name, size in stages:
                print(f"    {name:38} {size / MIB:9,.1f} MiB, {(size - first) / count:9,.0f} B for each session")
            report.raw(part="offline", kind=kind.name, sessions=count, queued=done, stages=stages)
            report.expect(done == each * count, f"{kind.name}: only {done:,} were acknowledged")
        except compare.Failure as failure:
            print(f"  {kind.name}: {failure}")
            report.raw(part="offline", kind=kind.name, failure=str(failure))
            report.expect(kind.config is not None, f"{kind.name}: {failure}")
        finally:
            trial.end()
        sys.stdout.flush()


# ---- A start -------------------------------------------------------------------------------------


def start(options, report):
    count = max(1, int(1_000_000 * options.scale))
    at_a_time = 100_000
    kind = KINDS[0]
    trial = Trial(kind, options, shards_flag(at_a_time) + " --max-retained-messages 2000000")
    try:
        trial.start()
        begin = time.monotonic()
        for first in range(0, count, at_a_time):
            sessions(trial, min(at_a_time, count - first), first)
        print(f"  {count:,} sessions with a subscription each, made in {time.monotonic() - begin:.0f} s")
        begin = time.monotonic()
        filled = trial.load(f"pub -c 10 -t kept/%i/%s -L {count} -q 1 -s 64 -r --saturate -F 1000", 900)
        done = filled["total"]["acknowledged"]
        print(f"  {done:,} retained messages of 64 B, acknowledged in {time.monotonic() - begin:.0f} s")
        report.expect(done == count, f"only {done:,} retained messages were acknowledged")
        print(f"  {'memory before':36} {trial.memory() / MIB:,.0f} MiB")
        trial.kill()
        size = sum(os.path.getsize(os.path.join(folder, name))
                   for folder, _, names in os.walk(trial.folder) for name in names)
        print(f"  {'on the disk':36} {size / MIB:,.0f} MiB")
        took = trial.start(600)
        cpu = scale.cpu_seconds(trial.pid)
        print(f"  {'from start to the first CONNACK':36} {took:.1f} s, {cpu:.1f} s of CPU")
        print(f"  {'memory then':36} {trial.memory() / MIB:,.0f} MiB")
        log = compare.without_folders(scale.read(trial.broker.log))
        for line in log.splitlines():
            if "the store is read" in line:
                print(f"  log: {line.split('  ')[-1].strip()}")
        report.raw(part="start", sessions=count, retained=done, seconds=took, cpu_seconds=cpu,
                   rss=trial.memory(), disk_bytes=size, log=log.splitlines())
        report.expect(f"sessions={count} " in log and f"retained={done} " in log,
                      "the start did not find all that was acknowledged")
    except compare.Failure as failure:
        report.expect(False, str(failure))
    finally:
        trial.end()


def main():
    parser = argparse.ArgumentParser()
    parts = {"rates": rates, "offline": offline, "start": start}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--work", required=True)
    parser.add_argument("--raw", required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    with open(options.raw, "w", encoding="utf-8"):
        pass
    report = Report(options)
    parts[options.part](options, report)
    sys.exit(not report.finish())


if __name__ == "__main__":
    main()
