"""Medians, ratios and tables out of the runs that compare.py took.

    python3 scripts/compare_report.py docs/perf/DATE-MACHINE/compare.jsonl     the page for this raw data
"""

import collections
import json
import statistics
import sys

TWO_SHARDS = "ringmq-2-shards"
# Cores that other programs may take, before the report warns of it.
BUSY = 0.1
# How the failure begins of a broker that does not keep up with a fixed rate.
BEHIND = "passes on only"

# what: of a result; unit: how it is printed; goal: (broker or None for an absolute figure, the
# least ratio or, if fewer is better, the largest).
Line = collections.namedtuple("Line", "row title what unit fewer goal", defaults=(False, None))


def load(result, *path):
    value = result["load"]
    for name in path:
        value = value[name] if value is not None else None
    return value


def per_cpu_second(result):
    return load(result, "measured", "messages_per_broker_cpu_second")


def latency(which):
    return lambda result: load(result, "latency_ms", "end_to_end", which)


def bytes_per_connection(result):
    """The slope between two stages, so that what the broker takes once does not count."""
    _, low, high = result["stages"]
    return max((high[what] - low[what]) / (high["connections"] - low["connections"])
               for what in ("rss", "anon"))


def storm_seconds(result):
    """None if not all came back."""
    storms = load(result, "storms")
    if not storms or any(storm["missing"] for storm in storms):
        return None
    return max(storm["seconds"] for storm in storms)


def connects_per_cpu_second(result):
    seconds = load(result, "connect", "cpu_seconds")
    return load(result, "connect", "connected") / seconds if seconds else None


LINES = [
    Line("idle", "idle connection, bytes of the broker, no subscription", bytes_per_connection,
         "count", True, (None, 700)),
    Line("idle-sub", "... with one subscription of its own", bytes_per_connection,
         "count", True, (None, 832)),
    Line("storm", "connects per second", lambda r: load(r, "connect", "per_second"), "k"),
    Line("storm", "connects per CPU s", connects_per_cpu_second, "k"),
    Line("fan-in-q0", "fan-in, QoS 0, saturated", per_cpu_second, "k", False, ("mosquitto", 2)),
    Line("fan-in-q1", "fan-in, QoS 1, saturated", per_cpu_second, "k", False, ("rumqttd", 2.8)),
    Line("fan-out-q0", "fan-out, QoS 0, saturated", per_cpu_second, "k", False, ("rumqttd", 2)),
    Line("pairs-q0", "pairs, QoS 0, saturated", per_cpu_second, "k", False, ("mosquitto", 1.6)),
    Line("pairs-q1", "pairs, QoS 1, saturated", per_cpu_second, "k", False, ("mosquitto", 4)),
    Line("fan-in-150k", "fan-in, QoS 0, 150,000 msg/s", per_cpu_second, "k", False,
         ("mosquitto", 1.3)),
    Line("fan-in-150k", "... latency p50, ms", latency("p50"), "ms", True),
    Line("fan-in-150k", "... latency p99, ms", latency("p99"), "ms", True),
    Line("pairs-50k", "pairs, QoS 1, 50,000 msg/s", per_cpu_second, "k", False,
         ("mosquitto", 1.2)),
    Line("pairs-50k", "... latency p50, ms", latency("p50"), "ms", True, ("mosquitto", 1)),
    Line("pairs-50k", "... latency p99, ms", latency("p99"), "ms", True, ("mosquitto", 1)),
    Line("pairs-20k", "pairs, QoS 1, 20,000 msg/s", per_cpu_second, "k"),
    Line("pairs-20k", "... latency p50, ms", latency("p50"), "ms", True),
    Line("pairs-20k", "... latency p99, ms", latency("p99"), "ms", True),
    Line("storm", "storm: all cut, all back, s", storm_seconds, "s", True, (None, 0.4)),
]

# row, title, what one shard's CPU time is divided by, kind of ratio, the largest that is good.
# At a fixed rate two shards wake up more often than one, each for fewer messages: no goal there.
SHARD_LINES = [
    ("pairs-q0", "pairs, QoS 0, saturated", "received", "crossing", 1.35),
    ("pairs-q1", "pairs, QoS 1, saturated", "received", "crossing", 1.35),
    ("pairs-20k", "pairs, QoS 1, 20,000 msg/s", "received", "crossing", None),
    ("nobody-q0", "published to nobody, QoS 0, 150,000 msg/s", "sent", "plain", None),
    ("nobody-q1", "published to nobody, QoS 1, saturated", "sent", "plain", 1.03),
]


def cpu_micros(per, whose="broker"):
    """CPU time of the broker, or the tool, for a message that was received, or sent."""
    def what(result):
        count = load(result, "measured", "counts", per)
        return load(result, "measured", f"{whose}_cpu_seconds") / count * 1e6 if count else None
    return what


def one_line(result):
    """What a run gave, while the others are still going on."""
    if "stages" in result:
        return f"{bytes_per_connection(result):,.0f} bytes per connection"
    if load(result, "storms"):
        seconds = storm_seconds(result)
        return "not all back" if seconds is None else f"all back after {seconds:.2f} s"
    flaws = "".join(f", {flaw}" for flaw in result["flaws"])
    cost = cpu_micros("received")(result) or cpu_micros("sent")(result)
    return f"{cost:.2f} us CPU per message{flaws}" if cost else "no messages"


def figures(results, row, broker, what):
    values = [what(r) for r in results
              if r["row"] == row and r["broker"] == broker and not r["failure"]]
    return [value for value in values if value is not None]


def median(results, row, broker, what):
    """None if at least half of the runs have no figure."""
    values = figures(results, row, broker, what)
    runs = sum(1 for r in results if r["row"] == row and r["broker"] == broker)
    return statistics.median(values) if 2 * len(values) > runs else None


def behind(results, row, broker, what):
    """What a broker had that kept up in no run. It is saturated then: for a CPU second it passes on no
    less than it would at a rate that it can keep up with."""
    runs = [r for r in results if r["row"] == row and r["broker"] == broker]
    if not runs or not all((r["failure"] or "").startswith(BEHIND) for r in runs):
        return None
    values = [value for value in map(what, runs) if value is not None]
    return statistics.median(values) if values else None


def printed(value, unit):
    if value is None:
        return "cannot"
    if unit == "k":
        return f"{value / 1000:,.0f} k" if value >= 10_000 else f"{value / 1000:,.1f} k"
    if unit == "count":
        return f"{value:,.0f}"
    return f"{value:,.3f}" if value < 10 else f"{value:,.0f}"


def ratio(ours, theirs):
    return f"×{ours / theirs:.2f}" if ours is not None and theirs else "-"


def reached(line, ours, medians):
    """The last columns: what is to be reached, and whether it is."""
    if line.goal is None:
        return ["", ""]
    broker, bound = line.goal
    sign = "≤" if line.fewer else "≥"
    if broker is None:
        text, value = f"{sign} {bound:,}", ours
    else:
        text = f"{sign} ×{bound:,} {broker}"
        theirs = medians.get(broker)
        value = ours / theirs if ours is not None and theirs else None
    if value is None:
        return [text, "no figure"]
    good = value <= bound if line.fewer else value >= bound
    return [text, "yes" if good else "**no**"]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def main_table(head, results):
    brokers = head["brokers"]
    against = [name for name in brokers if name != "ringmq"] if "ringmq" in brokers else []
    measured = {r["row"] for r in results if r["broker"] != TWO_SHARDS}
    rows = []
    for line in LINES:
        if line.row not in measured:
            continue
        medians = {name: median(results, line.row, name, line.what) for name in brokers}
        late = {name: behind(results, line.row, name, line.what) for name in brokers}
        ours = medians.get("ringmq")
        tried = {r["broker"] for r in results if r["row"] == line.row}
        cells = [line.title] + [
            f"behind: {printed(late[name], line.unit)}" if late[name] is not None
            else printed(medians[name], line.unit) if name in tried else "" for name in brokers]
        # Not RingMQ's own: that would be none.
        medians |= {name: late[name] for name in against if late[name] is not None}
        cells += [ratio(ours, medians[name]) for name in against]
        rows.append(cells + reached(line, ours, medians))
    heads = [""] + brokers + [f"to {name}" for name in against] + ["to reach", "reached"]
    return table(heads, rows) if rows else ""


def shard_table(results):
    rows = []
    for row, title, per, kind, bound in SHARD_LINES:
        what = cpu_micros(per)
        one = median(results, row, "ringmq", what)
        two = median(results, row, TWO_SHARDS, what)
        if one is None or two is None:
            if any(r["row"] == row and r["broker"] == TWO_SHARDS for r in results):
                rows.append([title, printed(one, "us"), printed(two, "us")] + ["-"] * 4)
            continue
        # Half of the pairs cross: two = (one + crossing) / 2.
        crossing = (2 * two - one) / one if kind == "crossing" else None
        value = crossing if kind == "crossing" else two / one
        rows.append([
            title, f"{one:.2f}", f"{two:.2f}", f"×{two / one:.3f}",
            f"×{crossing:.2f}" if crossing is not None else "",
            f"≤ ×{bound}" if bound else "",
            ("yes" if value <= bound else "**no**") if bound else ""])
    heads = ["broker CPU, µs per message", "one shard", "two shards", "two to one",
             "a crossing delivery to a local one", "to reach", "reached"]
    return table(heads, rows) if rows else ""


def more_table(head, results):
    """What the CPU figures alone do not say."""
    rows = []
    for row in dict.fromkeys(r["row"] for r in results if "load" in r):
        for name in head["brokers"] + [TWO_SHARDS]:
            passed = "sent_per_second" if row.startswith("nobody") else "received_per_second"
            rate = median(results, row, name, lambda r, p=passed: load(r, "measured", p))
            if not rate:
                continue
            per = passed.split("_", maxsplit=1)[0]
            costs = figures(results, row, name, cpu_micros(per))
            each = [median(results, row, name, cpu_micros(per, whose))
                    for whose in ("broker", "tool")]
            spread = (max(costs) - min(costs)) / statistics.median(costs) if costs else 0
            share = median(results, row, name, lambda r: load(r, "measured", "broker_cpu_share"))
            late = [median(results, row, name, latency(p)) for p in ("p50", "p99")]
            rows.append([row, name, printed(rate, "k"), f"{(share or 0) * 100:.0f} %"]
                        + [printed(value, "ms") if value is not None else "" for value in late]
                        + ["" if value is None else f"{value:.2f}" for value in each]
                        + [f"{len(costs)}", f"{spread * 100:.0f} %"])
    heads = ["row", "broker", "messages per second", "of a core", "p50 ms", "p99 ms",
             "broker CPU, µs per message", "tool CPU, µs per message", "runs", "CPU per message differs by"]
    return table(heads, rows) if rows else ""


def other_load(results, row=None):
    """Cores that neither the broker nor the tool used meanwhile, in a row or in all."""
    values = []
    for result in results:
        if row in (None, result["row"]) and not result["failure"] and "load" in result:
            measured = load(result, "measured")
            used = measured["broker_cpu_seconds"] + measured["tool_cpu_seconds"]
            if measured["seconds"]:
                values.append((measured["machine_busy_cpu_seconds"] - used) / measured["seconds"])
    return max(0, statistics.median(values)) if values else None


def load_table(head, results):
    rows = []
    for m in head["rows"]:
        other = other_load(results, m["row"])
        rows.append([m["row"], f"{m['load_before']:.2f}", f"{m['load_after']:.2f}",
                     f"{m['steal'] * 100:.1f} %", "" if other is None else f"{other * 100:.0f} %"])
    heads = ["row", "load average before", "after", "stolen by the hypervisor",
             "other programs, of a core"]
    return table(heads, rows) if rows else ""


def remarks(results):
    """Failures and flaws, each once, with how many runs had it."""
    seen = collections.Counter()
    for result in results:
        what = ([result["failure"]] if result["failure"] else []) + result["flaws"]
        for text in what:
            seen[(result["row"], result["broker"], text)] += 1
    return "".join(f"- {row}, {broker}: {text}" + (f" ({count} times)\n" if count > 1 else "\n")
                   for (row, broker, text), count in seen.items())


def report(head, results):
    """The whole page."""
    machine = "\n".join(head["machine"])
    versions = "\n".join(f"{name:9} {text}" for name, text in head["versions"].items())
    parts = [
        "# RingMQ beside other brokers\n",
        f"```\n{machine}\ncommand   {head['command']}\ntook      {head['took']} s\n{versions}\n```\n",
        f"Medians of {head['runs']} run{'s' * (head['runs'] > 1)} of {head['seconds']} s, brokers in turn; "
        f"{head['clients']:,} publishers, subscribers or pairs, payloads of {head['payload']} bytes, "
        f"{head['connections']:,} connections in the idle, connect and storm rows. Flows are "
        "messages delivered per CPU second of the broker, unless a row says otherwise. Ratios are "
        "RingMQ's figure divided by the other's: for bytes, times and latencies, less than 1 is "
        "good. A broker that is *behind* does not keep up with the rate in any run; the figure is that of what "
        "it passes on. What the rows mean: [performance](../../performance.md).\n",
        main_table(head, results),
    ]
    other = other_load(results)
    if other is not None and other > BUSY:
        parts.insert(1, f"**The machine was busy: other programs took {other * 100:.0f} % of a core. "
                     "These figures mean little.**\n")
    if head.get("interrupted"):
        parts.insert(1, "**Interrupted: not all rows were measured.**\n")
    sections = [
        ("Two shards against one", shard_table(results)),
        ("More about the flows", more_table(head, results)),
        ("What the machine did besides", load_table(head, results)),
        ("What went wrong", remarks(results)),
        ("Commands", "".join(f"- {n}: `{c}`\n" for n, c in head["commands"].items())),
    ]
    for title, text in sections:
        if text:
            parts += [f"## {title}\n", text]
    return "\n".join(parts)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as raw:
        HEAD, *RESULTS = map(json.loads, raw)
    print(report(HEAD, RESULTS), end="")
