#!/usr/bin/env python3
"""Holds many connections to a running broker and says what they cost. Called by scale.sh.

`scale.py shards N` prints how many shards N connections need under this descriptor limit.
`scale.py hold N ...` brings them up with `ringmq-load conn`, watches broker, tool and machine, and
prints the table; exit status 1 if anything was missed.
"""

import argparse
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import compare

# The broker's own descriptors: src/shard/capacity.rs.
OTHER, EACH_SHARD, RESERVED = 32, 4, 64
MAX_SHARDS = 256
USER_BUDGET = 832
# What the objects of a kernel cache are, where its name does not say it.
CACHES = {"TCP": "tcp_sock", "sock_inode_cache": "inode", "filp": "file", "io_kiocb": "armed poll"}
GIB = 1 << 30
# What is to come back, by what it is called in readings, and to how many times the start at the most.
COMES_BACK = {"broker_rss": "broker resident", "slab": "kernel slab", "used": "memory used"}
COMES_BACK_TO = 1.2


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def fields(path):
    """`Name: number kB` lines, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+)(?: kB)?$", read(path), re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def left(memory):
    """Bytes that programs may still have. The kernel's own MemAvailable counts the inodes and names
    of open sockets as if they could be let go of."""
    return memory["MemFree"] + memory["Buffers"] + memory["Cached"] - memory["Shmem"]


def sockstat():
    """The machine's TCP sockets, and the bytes in their buffers."""
    line = re.search(r"^TCP:(.*)$", read("/proc/net/sockstat"), re.MULTILINE)
    words = line.group(1).split() if line else []
    values = dict(zip(words[::2], map(int, words[1::2])))
    values["mem"] = values.get("mem", 0) * resource.getpagesize()
    return values


def slabs():
    """Bytes of each kernel cache, as far as this user may know."""
    sizes = {}
    for line in read("/proc/slabinfo").splitlines()[2:]:
        words = line.split()
        pages_of_a_slab, slabs_there = int(words[5]), int(words[14])
        sizes[words[0]] = pages_of_a_slab * slabs_there * resource.getpagesize()
    return sizes


def cpu_seconds(pid):
    words = read(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK") if words else 0.0


def dropped_packets():
    """Packets dropped because a processor's queue was full (net.core.netdev_max_backlog)."""
    return sum(int(line.split()[1], 16) for line in read("/proc/net/softnet_stat").splitlines())


def network_counters():
    """Counters that say whether anything was sent again or refused."""
    counters = {}
    lines = (read("/proc/net/netstat") + read("/proc/net/snmp")).splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        counters.update(zip(names.split()[1:], values.split()[1:]))
    wanted = ("ListenOverflows", "ListenDrops", "RetransSegs", "TCPTimeouts", "TCPReqQFullDoCookies")
    return {name: int(counters.get(name, 0)) for name in wanted} | {"QueueDrops": dropped_packets()}


def reading(broker, tool=None):
    memory = fields("/proc/meminfo")
    status = fields(f"/proc/{broker}/status")
    sockets = sockstat()
    return {
        "at": time.monotonic(),
        "used": memory["MemTotal"] - left(memory), "left": left(memory),
        "slab": memory["Slab"], "page_tables": memory.get("PageTables", 0),
        "kernel_stacks": memory.get("KernelStack", 0), "percpu": memory.get("Percpu", 0),
        "buffers": sockets["mem"], "sockets": sockets.get("alloc", 0),
        "time_wait": sockets.get("tw", 0),
        "broker_rss": status.get("VmRSS", 0), "broker_anon": status.get("RssAnon", 0),
        "broker_cpu": cpu_seconds(broker),
        "tool_anon": fields(f"/proc/{tool}/status").get("RssAnon", 0) if tool else 0,
        "caches": slabs(), "network": network_counters(), "meminfo": memory,
    }


def descriptor_limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def shards_for(connections, limit):
    """The fewest shards whose tables hold them, with four deviations of the hash's unevenness."""
    for shards in range(max(1, os.cpu_count() or 1), MAX_SHARDS + 1):
        each = connections / shards
        spread = 4 * math.sqrt(each) if shards > 1 else 0
        if each + spread + OTHER + EACH_SHARD * shards + RESERVED + 1 <= limit:
            return shards
    return None


class Tool:
    """The load generator, and what it says of its progress."""

    def __init__(self, options, result):
        self.command = [
            options.load, "conn", "-p", str(options.port), "-c", str(options.connections),
            "-k", str(options.keepalive), "--connecting", str(options.connecting),
            "--connect-timeout", "60", "--settle", "3", "--drain", "10",
            "--duration", str(options.hold), "--pid", str(options.pid), "--json", result]
        if not options.no_subscription:
            self.command += ["-t", "dev/%c/cmd", "-q", str(options.qos), "--warmup", "1",
                             "--sample", str(options.sample),
                             "--sample-interval", str(options.interval)]
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        self.stage, self.lines = "", []
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if len(self.lines) % 5 == 0:
                print(line.rstrip(), file=sys.stderr, flush=True)
            progress = re.match(r"\s*\d+ s (\w+)", line)
            if progress:
                self.stage = progress.group(1)


class Round:
    """All up, held, all gone."""

    def __init__(self, options, number, first=None):
        """`first` is what was read before the first round, if this is another."""
        self.options = options
        self.result = os.path.join(options.work, f"round-{number}.json")
        self.readings = {"start": reading(options.pid)}
        self.first = first or self.readings["start"]
        self.peak_buffers = 0
        self.stopped = None
        self.tool = Tool(options, self.result)
        self.watch()
        self.tool.reader.join(10)
        self.status = self.tool.process.wait()
        self.release()
        text = read(self.result)
        self.load = json.loads(text) if text else None

    def watch(self):
        """Until the tool ends; kills it when memory runs out."""
        held_at = None
        while self.tool.process.poll() is None:
            time.sleep(0.1)
            memory = fields("/proc/meminfo")
            self.peak_buffers = max(self.peak_buffers, sockstat()["mem"])
            if left(memory) < self.options.memory * GIB and not self.stopped:
                self.stopped = f"less than {self.options.memory} GiB of memory was left"
                self.tool.process.send_signal(signal.SIGKILL)
            if self.tool.stage == "running":
                now = time.monotonic()
                held_at = held_at or now
                if "connected" not in self.readings:
                    self.readings["connected"] = reading(self.options.pid, self.tool.process.pid)
                if "held" not in self.readings and now > held_at + self.options.hold - 4:
                    self.readings["held"] = reading(self.options.pid, self.tool.process.pid)

    def release(self):
        """Waits until the sockets are gone, 60 s at the most, and then for memory, 100 s: TCP remembers
        connections for a minute (TIME_WAIT)."""
        print("... releasing", file=sys.stderr, flush=True)
        start, begin = self.readings["start"], time.monotonic()
        self.seconds_to_release = None
        while time.monotonic() < begin + 60:
            if sockstat().get("alloc", 0) <= start["sockets"] + 20:
                self.seconds_to_release = time.monotonic() - begin
                break
            time.sleep(0.05)
        # The kernel frees what closed sockets had in its own time. What it remembers of those that are
        # closed is for a minute only, and goes all at a time.
        self.trace, gone = [], time.monotonic()
        while time.monotonic() < gone + 100:
            now = reading(self.options.pid)
            self.trace.append((now["at"] - begin, now["used"], now["broker_rss"], now["slab"]))
            forgotten = now["time_wait"] <= start["time_wait"] + 20
            if forgotten and all(
                    now[what] <= COMES_BACK_TO * self.first[what] for what in COMES_BACK):
                break
            time.sleep(1)
        self.readings["released"] = reading(self.options.pid)
        self.readings["released"]["after"] = time.monotonic() - begin


def count(value):
    return f"{value:,.0f}"


def mebi(value):
    return f"{value / (1 << 20):,.0f} MiB"


class Report:
    """The table, and what is wrong."""

    def __init__(self, options, rounds):
        self.options, self.rounds, self.missed = options, rounds, []
        self.connections = options.connections

    def line(self, name, *cells):
        print(f"{name:46}" + "".join(f"{cell:>20}" for cell in cells))

    def each(self, name, of_round):
        self.line(name, *(of_round(it) for it in self.rounds))

    def expect(self, holds, what):
        if not holds:
            self.missed.append(what)

    def growth(self, it, what, when="held"):
        return (it.readings[when][what] - it.readings["start"][what]) / self.connections

    def print(self):
        for number, it in enumerate(self.rounds, 1):
            if it.load is None or "held" not in it.readings:
                why = it.stopped or "\n".join(it.tool.lines[-5:])
                print(f"round {number} came to nothing: {why}")
                return False
        self.line("", *(f"round {number}" for number, _ in enumerate(self.rounds, 1)))
        self.connecting()
        self.holding()
        self.memory()
        self.release()
        for what in self.missed:
            print(f"MISSED: {what}")
        if not self.missed:
            print("nothing was missed")
        return not self.missed

    def connecting(self):
        connect = lambda it: it.load["connect"]
        latency = lambda it, what: it.load["latency_ms"]["connect"][what]
        network = lambda it: {name: it.readings["held"]["network"][name] - before for name, before in
                              it.readings["start"]["network"].items()}
        self.each("connections", lambda it: count(connect(it)["connected"]))
        self.each("connected in, s", lambda it: f"{connect(it)['seconds']:.1f}")
        self.each("connects per second", lambda it: count(connect(it)["per_second"]))
        self.each("broker CPU per connect, us", lambda it: f"{1e6 * connect(it)['cpu_seconds'] / self.connections:.1f}")
        self.each("connect p50 / p99 / max, ms", lambda it: " / ".join(
            count(latency(it, what)) for what in ("p50", "p99", "max")))
        self.each("attempts failed", lambda it: count(connect(it)["failed_attempts"]))
        self.each("SYNs that found the backlog full", lambda it: count(network(it)["ListenOverflows"]))
        self.each("packets dropped by loopback's queue", lambda it: count(network(it)["QueueDrops"]))
        self.each("segments sent again", lambda it: count(network(it)["RetransSegs"]))
        for it in self.rounds:
            self.expect(connect(it)["connected"] == self.connections, "not all were connected")
            self.expect(connect(it)["failed_attempts"] == 0, "attempts to connect failed")

    def holding(self):
        total = lambda it, what: it.load["total"][what]
        flow = lambda it, what: sum(flow[what] for flow in it.load["flows"])
        print()
        self.each("held for, s", lambda it: f"{it.load['measured']['seconds']:.0f}")
        self.each("connections lost", lambda it: count(total(it, "lost_connections")))
        self.each("keep-alives: pings", lambda it: count(total(it, "pings")))
        self.each("... answered", lambda it: count(total(it, "pings_answered")))
        for it in self.rounds:
            self.expect(total(it, "lost_connections") == 0, "connections were lost")
            self.expect(total(it, "pings") == total(it, "pings_answered"), "pings were not answered")
            # A silent connection pings after three quarters of its Keep Alive.
            due = self.connections * it.options.hold / (0.75 * it.options.keepalive)
            self.expect(total(it, "pings") >= 0.7 * due, "fewer pings than the keep-alive asks for")
            self.expect(it.load["good"], "the load generator found something wrong: " + "; ".join(
                f"{failure['count']} x {failure['what']}" for failure in it.load["failures"]))
        if not self.options.no_subscription:
            latency = lambda it, what: it.load["latency_ms"]["end_to_end"][what]
            self.each("sample: messages sent", lambda it: count(flow(it, "sent")))
            self.each("... lost, twice, out of order", lambda it: " / ".join(
                count(flow(it, what)) for what in ("lost", "duplicates", "reordered")))
            self.each("... p50 / p99 / max, ms", lambda it: " / ".join(
                f"{latency(it, what):.2f}" for what in ("p50", "p99", "max")))
            for it in self.rounds:
                self.expect(flow(it, "lost") == 0 and flow(it, "broken_promises") == 0, "messages were lost")
                self.expect(flow(it, "sent") > 0, "the sample sent nothing")
        share = lambda it, what: it.load["measured"][what] / it.load["measured"]["seconds"]
        self.each("broker CPU while held, cores", lambda it: f"{share(it, 'broker_cpu_seconds'):.3f}")
        self.each("... per connection and second, us", lambda it: f"{1e6 * share(it, 'broker_cpu_seconds') / self.connections:.3f}")
        self.each("tool CPU while held, cores", lambda it: f"{share(it, 'tool_cpu_seconds'):.3f}")
        others = lambda it: (share(it, "machine_busy_cpu_seconds") - share(it, "broker_cpu_seconds")
                             - share(it, "tool_cpu_seconds"))
        self.each("other programs and the kernel's own, cores", lambda it: f"{others(it):.3f}")

    def memory(self):
        print("\nbytes per connection, while held")
        self.each("broker, resident (VmRSS)", lambda it: f"{self.growth(it, 'broker_rss'):,.0f}")
        self.each("broker, its own (RssAnon)", lambda it: f"{self.growth(it, 'broker_anon'):,.0f}")
        self.each("tool, its own", lambda it: f"{self.growth(it, 'tool_anon'):,.0f}")
        self.each("kernel, both ends: slab", lambda it: f"{self.growth(it, 'slab'):,.0f}")
        self.each("... socket buffers", lambda it: f"{self.growth(it, 'buffers'):,.0f}")
        self.each("... page tables", lambda it: f"{self.growth(it, 'page_tables'):,.0f}")
        self.each("all of it (less memory left)", lambda it: f"{self.growth(it, 'used'):,.0f}")
        for name in sorted(self.rounds[0].readings["held"]["caches"]):
            cache = lambda it, when: it.readings[when]["caches"].get(name, 0)
            grown = [(cache(it, "held") - cache(it, "start")) / self.connections for it in self.rounds]
            if max(grown) >= 8:
                what = f" ({CACHES[name]})" if name in CACHES else ""
                self.line(f"   cache {name}{what}", *(f"{value:,.0f}" for value in grown))
        self.each("highest socket buffers at any time", lambda it: f"{it.peak_buffers / self.connections:,.0f}")
        first = self.rounds[0]
        self.expect(self.growth(first, "broker_rss") <= USER_BUDGET,
                    f"more than {USER_BUDGET} B of user memory for each connection")

    def release(self):
        print()
        self.each("all sockets gone after, s", lambda it: "never" if it.seconds_to_release is None
                  else f"{it.seconds_to_release:.1f}")
        self.each("memory read after, s", lambda it: f"{it.readings['released']['after']:.0f}")
        for what, name in COMES_BACK.items():
            for when in ("start", "held", "released"):
                self.each(f"{name}: {when}", lambda it: mebi(it.readings[when][what]))
        first = self.rounds[0].readings["start"]
        for number, it in enumerate(self.rounds, 1):
            self.expect(it.seconds_to_release is not None, "sockets were left")
            for what, name in COMES_BACK.items():
                before, after = first[what], it.readings["released"][what]
                self.expect(after <= COMES_BACK_TO * before, f"round {number}: {name} is at "
                            f"{after / before:.2f} times the start")
        if len(self.rounds) > 1:
            peaks = [it.readings["held"]["broker_rss"] for it in self.rounds]
            self.expect(peaks[1] <= 1.03 * peaks[0], "the second round took more memory")


def hold(options):
    rounds = []
    for number in range(1, options.rounds + 1):
        first = rounds[0].readings["start"] if rounds else None
        rounds.append(Round(options, number, first))
        if rounds[-1].load is None or rounds[-1].stopped:
            break
    good = Report(options, rounds).print()
    with open(os.path.join(options.work, "raw.json"), "w", encoding="utf-8") as file:
        json.dump([{
            "command": compare.shown(it.tool.command), "status": it.status, "stopped": it.stopped,
            "seconds_to_release": it.seconds_to_release, "release": it.trace,
            "readings": it.readings, "load": it.load,
        } for it in rounds], file, indent=1)
    return good


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    shards = verbs.add_parser("shards")
    shards.add_argument("connections", type=int)
    holding = verbs.add_parser("hold")
    holding.add_argument("connections", type=int)
    for name, kind, default in (("port", int, None), ("pid", int, None), ("load", str, None),
                                ("work", str, None), ("hold", float, 60), ("keepalive", int, 180),
                                ("interval", float, 10), ("sample", float, 1), ("qos", int, 1),
                                ("rounds", int, 2), ("memory", float, 1.5), ("connecting", int, 64)):
        holding.add_argument(f"--{name}", type=kind, default=default)
    holding.add_argument("--no-subscription", action="store_true")
    options = parser.parse_args()
    if options.verb == "shards":
        limit = descriptor_limit()
        found = shards_for(options.connections, limit)
        if found is None:
            sys.exit(f"error: {options.connections:,} connections do not fit under a descriptor limit "
                     f"of {limit:,}: scripts/tune-kernel.sh says what does")
        print(found)
        return
    sys.exit(not hold(options))


if __name__ == "__main__":
    main()
