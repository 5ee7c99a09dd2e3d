"""Measures brokers in turn, and writes the comparison; started by compare.sh, which explains it."""

import argparse
import collections
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

import compare_report

HOST = "127.0.0.1"
PAYLOAD = 64
# Less than this share of the offered rate delivered means that the broker cannot keep up.
KEEPS_UP = 0.98
# A measurement that took longer than this many seconds is not repeated.
SLOW = 25
# A broker that failed so often in a row is not tried again in it.
FAILURES = 2

MOSQUITTO_CONFIG = f"""listener {{port}} {HOST}
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 1000
max_queued_messages 100000
persistence false
log_type none
"""

# The delay between two accepted connections is 1 ms in rumqttd's own sample, which bounds connects.
RUMQTTD_CONFIG = f"""id = 0

[router]
id = 0
max_connections = 100000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v4.1]
name = "v4-1"
listen = "{HOST}:{{port}}"
next_connection_delay_ms = 0
    [v4.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 1048576
    max_inflight_count = 1000
    dynamic_filters = true
"""

RINGMQ_FLAGS = "--in-memory --pin false --max-inflight 1000 --max-queued-messages 100000 --log-level warn"

# kind: how it is measured; arguments: of ringmq-load; rate: messages per second, 0 if saturated;
# shards: whether RingMQ with two shards takes part; others: whether other brokers do; once: that a
# single run is enough, for memory differs little from run to run.
Row = collections.namedtuple(
    "Row", "kind arguments rate shards others once", defaults=(0, False, True, False))

ROWS = {
    "idle": Row("idle", "", once=True),
    "idle-sub": Row("idle", "--subscribe", once=True),
    "storm": Row("storm", "storm -c {connections} --rounds 1 --connect-timeout 30"),
    "fan-in-q0": Row("flow", "fan-in -c {clients} -q 0 --saturate"),
    "fan-in-q1": Row("flow", "fan-in -c {clients} -q 1 --saturate"),
    "fan-out-q0": Row("flow", "fan-out -c {clients} -q 0 --saturate"),
    "pairs-q0": Row("flow", "pair -c {clients} -q 0 --saturate", shards=True),
    "pairs-q1": Row("flow", "pair -c {clients} -q 1 --saturate", shards=True),
    "fan-in-150k": Row("flow", "fan-in -c {clients} -q 0 --rate 150000", 150_000),
    "pairs-50k": Row("flow", "pair -c {clients} -q 1 --rate 50000", 50_000),
    "pairs-20k": Row(
        "flow", "pair -c {clients} -q 1 --rate 20000 --grain 200", 20_000, True),
    "nobody-q0": Row(
        "flow", "pub -c {clients} -t nobody/%i -q 0 --rate 150000", 150_000, True, False),
    "nobody-q1": Row("flow", "pub -c {clients} -t nobody/%i -q 1 --saturate", 0, True, False),
}


class Failure(Exception):
    """Why a broker has no figure in a run."""


class Broker:
    """One that can be started: `command` has {port} and perhaps {config} in it."""

    def __init__(self, name, command, config=None, port=None):
        self.name, self.command, self.config, self.port = name, command, config, port
        self.process = self.log = None
        self.now = 0

    def start(self, work, patience=20):
        """Returns when the broker answers a CONNECT, within so many seconds."""
        self.now = self.port or free_port()
        values = {"port": self.now}
        if self.config:
            values["config"] = os.path.join(work, f"{self.name}.toml")
            with open(values["config"], "w", encoding="utf-8") as config:
                config.write(self.config.format(port=self.now))
        self.log = os.path.join(work, f"{self.name}.log")
        words = [fill(word, values) for word in shlex.split(self.command)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGMQ")}
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                    start_new_session=True)
        except OSError as error:
            raise Failure(f"does not start: {error.strerror}") from None
        deadline = time.monotonic() + patience
        while not answers(self.now):
            if self.process.poll() is not None:
                raise Failure(f"ended at its start with {self.process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"answers no CONNECT within {patience} s: {self.tail()}")
            time.sleep(0.05)

    def stop(self):
        """Ends the broker and what it started."""
        if self.process is None:
            return
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(patience)
                break
            except ProcessLookupError:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def tail(self):
        """The end of what it said, without paths of this machine."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log.read()[-2000:].splitlines() if line.strip()]
        return without_paths(" / ".join(lines[-2:]))[:300] or "it says nothing"


def without_folders(text):
    """Absolute paths cut down to the last name."""
    return re.sub(r"(?<![\w./~-])/(?:[^\s/'\"]+/)+", "", text)


def fill(word, values):
    for name, value in values.items():
        word = word.replace("{" + name + "}", str(value))
    return word


def without_paths(text):
    return without_folders(" ".join(text.split()))


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def answers(port):
    """Whether a broker there accepts a client."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as client:
            client.sendall(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05probe")
            accepted = client.recv(4)[:1] == b"\x20"
            client.sendall(b"\xe0\x00")
            return accepted
    except OSError:
        return False


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare.sh", add_help=False)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", "3")))
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--brokers", default="ringmq,mosquitto,rumqttd")
    parser.add_argument("--broker", action="append", default=[])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.rows == "list":
        print("\n".join(ROWS))
        sys.exit()
    arguments.rows = arguments.rows.split(",")
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if min(arguments.runs, arguments.seconds, arguments.clients) < 1 or arguments.connections < 10:
        parser.error("--runs, --seconds, --clients: at least 1; --connections: at least 10")
    return arguments, parser


def brokers_of(arguments, parser):
    """The brokers of all rows, and RingMQ with two shards."""
    ringmq = shlex.quote(os.environ["RINGMQ"]) + f" --listen {HOST}:{{port}} {RINGMQ_FLAGS}"
    known = {
        "ringmq": Broker("ringmq", f"{ringmq} --shards 1"),
        "mosquitto": Broker(
            "mosquitto", shlex.quote(os.environ["MOSQUITTO"]) + " -c {config}", MOSQUITTO_CONFIG),
        "rumqttd": Broker(
            "rumqttd", shlex.quote(os.environ["RUMQTTD"]) + " -q -c {config}", RUMQTTD_CONFIG),
    }
    chosen = []
    for name in arguments.brokers.split(","):
        if name not in known:
            parser.error(f"--brokers: {name} is none of {', '.join(known)}; use --broker for others")
        chosen.append(known[name])
    for text in arguments.broker:
        name, _, command = text.partition("=")
        name, _, port = name.partition("@")
        if not name or not command or not (port.isdigit() or "{port}" in command):
            parser.error("--broker NAME@PORT=COMMAND, or NAME=COMMAND with {port} in the command")
        chosen.append(Broker(name, command, port=int(port) if port else None))
    return chosen, Broker(compare_report.TWO_SHARDS, f"{ringmq} --shards 2")


class Comparison:
    """Takes all measurements."""

    def __init__(self, arguments, brokers, two_shards, work):
        self.arguments, self.brokers, self.two_shards = arguments, brokers, two_shards
        self.work = work
        self.results = []
        self.machine = []

    def all_rows(self):
        for key in self.arguments.rows:
            before = machine_state()
            self.row(key)
            after = machine_state()
            jiffies = max(1, after["jiffies"] - before["jiffies"])
            self.machine.append({
                "row": key, "load_before": before["load"], "load_after": after["load"],
                "steal": (after["steal"] - before["steal"]) / jiffies})

    def row(self, key):
        row = ROWS[key]
        takes_part = [b for b in self.brokers if row.others or b.name == "ringmq"]
        if row.shards and any(b.name == "ringmq" for b in self.brokers):
            takes_part.append(self.two_shards)
        failures = collections.Counter()
        for run in range(1 if row.once else self.arguments.runs):
            turn = run % len(takes_part) if takes_part else 0
            for broker in takes_part[turn:] + takes_part[:turn]:
                if failures[broker.name] >= FAILURES:
                    continue
                result = self.measure(key, row, broker, run)
                if result["failure"]:
                    failures[broker.name] += 1
                if result["took"] > SLOW and failures[broker.name] < FAILURES:
                    failures[broker.name] = FAILURES
                    result["flaws"].append("slow, so not repeated")
                self.results.append(result)

    def measure(self, key, row, broker, run):
        """One run of one broker in one row. Whatever goes wrong is part of the result."""
        result = {"row": key, "broker": broker.name, "run": run, "failure": None, "flaws": []}
        begun = time.monotonic()
        try:
            broker.start(self.work)
            if row.kind == "idle":
                self.idle(row, broker, result)
            else:
                self.load(row, broker, result)
            if broker.process.poll() is not None:
                raise Failure(f"ended meanwhile with {broker.process.returncode}: {broker.tail()}")
        except Failure as failure:
            result["failure"] = str(failure)
            ended = broker.process.poll() if broker.process else None
            if ended is not None and "ended" not in str(failure):
                result["failure"] += f"; it ended with {ended}: {broker.tail()}"
        finally:
            broker.stop()
        result["took"] = round(time.monotonic() - begun, 1)
        said = result["failure"] or compare_report.one_line(result)
        print(f"{key:12} run {run + 1} {broker.name:16} {result['took']:6.1f} s  {said}",
              file=sys.stderr, flush=True)
        return result

    def idle(self, row, broker, result):
        most = self.arguments.connections
        words = [sys.executable, "scripts/idle_clients.py", "--port", str(broker.now), "--pid",
                 str(broker.process.pid), "--stages", f"{most // 5},{most}", "--keep-alive", "300"]
        words += shlex.split(row.arguments)
        result["command"] = shown(words)
        answer = run_tool(words, 150)
        lines = [json.loads(line) for line in answer.stdout.splitlines()]
        if answer.returncode or len(lines) != 3:
            raise Failure(last_line(answer.stderr))
        result["stages"] = lines

    def load(self, row, broker, result):
        seconds = self.arguments.seconds
        words = shlex.split(row.arguments.format(
            clients=self.arguments.clients, connections=self.arguments.connections))
        words += ["--pid", str(broker.process.pid)]
        if row.kind == "flow":
            words += ["-s", str(PAYLOAD), "--duration", str(seconds), "--drain", "1"]
        result["command"], data = run_load(words, broker, self.work, seconds + 120)
        result["load"] = data
        judge(row, data, result)


def judge(row, data, result):
    """Raises Failure where the figures mean nothing, and lists flaws that they have."""
    connect, measured = data["connect"], data["measured"]
    clients = connect["connected"] + connect["gave_up"]
    if data["broker_gone"]:
        raise Failure("the broker was gone in the middle")
    if connect["gave_up"] or not clients:
        raise Failure(f"only {connect['connected']:,} of {clients:,} clients connected")
    if row.kind == "storm":
        for storm in data["storms"]:
            if storm["missing"]:
                result["flaws"].append(
                    f"{storm['missing']:,} clients not back after {storm['seconds']:.0f} s")
            if storm["failed_attempts"]:
                result["flaws"].append(f"{storm['failed_attempts']:,} attempts failed")
        return
    passed = measured["received_per_second"] if row.others else measured["sent_per_second"]
    if row.rate and passed < KEEPS_UP * row.rate:
        raise Failure(f"{compare_report.BEHIND} {passed:,.0f} of {row.rate:,} messages per second")
    if not passed:
        raise Failure("passes on nothing")
    if data["broken_promises"]:
        result["flaws"].append(f"{data['broken_promises']:,} broken promises of QoS")
    lost = sum(flow["lost"] for flow in data["flows"])
    if lost:
        result["flaws"].append(f"{lost:,} messages lost")
    if measured["counts"]["lost_connections"]:
        result["flaws"].append(f"{measured['counts']['lost_connections']:,} connections lost")


def run_tool(words, patience):
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"not done after {patience} s") from None
    except OSError as error:
        raise Failure(f"{os.path.basename(words[0])}: {error.strerror}") from None


def run_load(words, broker, work, patience):
    """One run of ringmq-load against a broker: the command as shown to readers, and the result
    without its samples."""
    report = os.path.join(work, "report.json")
    words = [os.environ["RINGMQ_LOAD"], *words, "-h", HOST, "-p", str(broker.now), "--quiet",
             "--json", report]
    if os.path.exists(report):
        os.unlink(report)
    answer = run_tool(words, patience)
    if answer.returncode not in (0, 1) or not os.path.exists(report):
        raise Failure(f"ringmq-load: {last_line(answer.stderr)}")
    with open(report, encoding="utf-8") as text:
        data = json.load(text)
    for too_much in ("samples", "seconds"):
        data.pop(too_much, None)
    return shown(words), data


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return without_paths(lines[-1]) if lines else "it says nothing"


def shown(words):
    """A command as the raw data keep it: without paths, ports and process ids."""
    kept, skip = [os.path.basename(words[0])], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-p", "--port", "--pid", "--json"):
            skip = True
        else:
            kept.append(without_folders(word))
    return shlex.join(kept)


def machine_state():
    with open("/proc/stat", encoding="ascii") as stat:
        jiffies = [int(word) for word in stat.readline().split()[1:9]]
    with open("/proc/loadavg", encoding="ascii") as load:
        return {"load": float(load.read().split()[0]), "jiffies": sum(jiffies), "steal": jiffies[7]}


def versions(brokers):
    """What each broker calls itself."""
    found = {}
    for broker in brokers:
        option = "-h" if broker.name == "mosquitto" else "--version"
        try:
            answer = run_tool([shlex.split(broker.command)[0], option], 10)
            lines = [line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
            found[broker.name] = without_paths(lines[0])[:80] if lines else "unknown"
        except Failure:
            found[broker.name] = "unknown"
    return found


def main():
    arguments, parser = parse_arguments()
    brokers, two_shards = brokers_of(arguments, parser)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    head = {
        "machine": os.environ["MACHINE"].splitlines(),
        "command": shlex.join(["scripts/compare.sh"] + [
            without_folders(word) for word in sys.argv[1:] if word != "--save"]),
        "runs": arguments.runs, "seconds": arguments.seconds, "clients": arguments.clients,
        "connections": arguments.connections, "payload": PAYLOAD,
        "brokers": [broker.name for broker in brokers], "versions": versions(brokers),
        "commands": {b.name: shown(shlex.split(b.command)) for b in brokers + [two_shards]},
        "configurations": {b.name: b.config for b in brokers if b.config},
    }
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        comparison = Comparison(arguments, brokers, two_shards, work)
        try:
            comparison.all_rows()
        except KeyboardInterrupt:
            head["interrupted"] = True
    head["took"] = round(time.monotonic() - begun)
    head["rows"] = comparison.machine
    report = compare_report.report(head, comparison.results)
    print(report)
    if arguments.save:
        folder = os.environ["FOLDER"]
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "compare.md"), "w", encoding="utf-8") as text:
            text.write(report)
        with open(os.path.join(folder, "compare.jsonl"), "w", encoding="utf-8") as raw:
            for line in [head] + comparison.results:
                raw.write(json.dumps(line, separators=(",", ":")) + "\n")
        print(f"kept in {folder}/compare.md and compare.jsonl", file=sys.stderr)


if __name__ == "__main__":
    main()
