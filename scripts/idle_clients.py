#!/usr/bin/env python3
"""Opens many MQTT 3.1.1 connections and measures what each costs the broker.

Plain non-blocking sockets and epoll, no library, so that any Python 3.8 runs it. The connections
do nothing: each connects with a client id of 24 bytes, perhaps subscribes to a topic of its own,
and stays. At every stage one JSON object a line is printed, with the broker's memory and the
machine's; `--connections N --stages N` without `--pid` just opens N connections and says how fast.

Descriptor limits count per process: one process holds what its hard limit allows, so the work is
shared out over as many processes as are needed, each with its own range of client ids and source
addresses.
"""

import argparse
import errno
import ipaddress
import json
import multiprocessing
import os
import resource
import select
import socket
import struct
import sys
import time

CONNACK = b"\x20\x02\x00\x00"
SPARE_DESCRIPTORS = 64


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--stages", default="5000,19000", help="connections at which to measure")
    parser.add_argument("--subscribe", action="store_true", help="to dev/CLIENT-ID/cmd")
    parser.add_argument("--keep-alive", type=int, default=300, help="seconds")
    parser.add_argument("--sources", default="127.0.0.2-127.0.0.9", help="source addresses")
    parser.add_argument("--pid", type=int, help="the broker, to measure it")
    parser.add_argument("--window", type=int, default=200, help="handshakes at a time")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for each stage")
    parser.add_argument("--processes", type=int, default=0, help="0 is as many as are needed")
    return parser.parse_args()


def source_addresses(text):
    """`A`, `A,B` or `A-B`."""
    addresses = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        first = ipaddress.ip_address(first)
        last = ipaddress.ip_address(last) if last else first
        addresses += [str(ipaddress.ip_address(n)) for n in range(int(first), int(last) + 1)]
    return addresses


def raise_descriptor_limit():
    """Lifts the soft limit to the hard one, and returns how many connections that allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - SPARE_DESCRIPTORS


def client_id(number):
    return b"device-%017d" % number


def connect_packet(number, keep_alive):
    name = client_id(number)
    body = b"\x00\x04MQTT\x04\x02" + struct.pack(">HH", keep_alive, len(name)) + name
    return bytes([0x10, len(body)]) + body


def subscribe_packet(number):
    topic = b"dev/" + client_id(number) + b"/cmd"
    body = struct.pack(">HH", 1, len(topic)) + topic + b"\x00"
    return bytes([0x82, len(body)]) + body


class Failure(Exception):
    """What a reader of the output should know."""


class Opener:
    """Opens connections and keeps them."""

    def __init__(self, arguments, first):
        self.arguments = arguments
        self.target = (arguments.host, arguments.port)
        self.sources = source_addresses(arguments.sources)
        self.first = first
        self.open = []
        self.poll = select.epoll()
        self.latency = []

    def open_up_to(self, count):
        """Opens connections until there are `count`."""
        waiting = {}
        number = len(self.open)
        deadline = time.monotonic() + self.arguments.timeout
        while len(self.open) < count:
            while number < count and len(waiting) < self.arguments.window:
                self.start(number, waiting)
                number += 1
            for descriptor, events in self.poll.poll(1):
                self.go_on(descriptor, events, waiting)
            if time.monotonic() > deadline:
                raise Failure(f"{len(self.open)} of {count} connections after "
                              f"{self.arguments.timeout:.0f} s, {len(waiting)} wait for an answer")

    def start(self, number, waiting):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        # Lets the kernel choose the port at connect(), when it knows both ends.
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)
        connection.bind((self.sources[number % len(self.sources)], 0))
        status = connection.connect_ex(self.target)
        if status not in (0, errno.EINPROGRESS):
            raise Failure(f"connection {number}: {os.strerror(status)}")
        self.poll.register(connection, select.EPOLLOUT)
        waiting[connection.fileno()] = [connection, self.first + number, b"", time.monotonic()]

    def go_on(self, descriptor, events, waiting):
        state = waiting[descriptor]
        connection, number, answer, started = state
        if events & select.EPOLLOUT:
            status = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if status:
                raise Failure(f"connection {number}: {os.strerror(status)}")
            connection.send(connect_packet(number, self.arguments.keep_alive))
            self.poll.modify(connection, select.EPOLLIN)
            return
        data = connection.recv(64)
        if not data:
            raise Failure(f"connection {number}: the broker closed it")
        answer += data
        state[2] = answer
        if answer == CONNACK and self.arguments.subscribe:
            connection.send(subscribe_packet(number))
            return
        wanted = CONNACK + (b"\x90\x03\x00\x01\x00" if self.arguments.subscribe else b"")
        if answer == wanted:
            self.latency.append(time.monotonic() - started)
            self.poll.unregister(connection)
            del waiting[descriptor]
            self.open.append(connection)
        elif not wanted.startswith(answer):
            raise Failure(f"connection {number}: unexpected answer {answer.hex()}")


def serve(arguments, pipe, first):
    """One process: opens as many as it is told, and holds them until the pipe closes."""
    raise_descriptor_limit()
    opener = Opener(arguments, first)
    try:
        while True:
            opener.latency = []
            opener.open_up_to(pipe.recv())
            pipe.send(opener.latency)
    except EOFError:
        pass
    except (Failure, OSError) as error:
        pipe.send(str(error))


def memory_of(pid):
    """The broker's resident memory in bytes, in all and of its own (neither file nor shared)."""
    figures = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "RssAnon"):
                figures[name] = int(value.split()[0]) * 1024
    return {"rss": figures["VmRSS"], "anon": figures["RssAnon"]}


def settled_memory_of(pid):
    """The same, once it has stopped moving: two equal readings, or the last after 5 s."""
    deadline = time.monotonic() + 5
    before = memory_of(pid)
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = memory_of(pid)
        if now == before:
            break
        before = now
    return before


def cpu_seconds_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kernel_memory():
    """The machine's slab, kernel stacks and socket buffers, in bytes; both ends of each connection
    are on this machine."""
    figures = {}
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            name, _, value = line.partition(":")
            if name in ("Slab", "SUnreclaim", "MemAvailable"):
                figures[name.lower()] = int(value.split()[0]) * 1024
    try:
        with open("/proc/net/sockstat", encoding="ascii") as sockstat:
            for line in sockstat:
                words = line.split()
                if words[0] == "TCP:":
                    values = dict(zip(words[1::2], words[2::2]))
                    figures["tcp_mem"] = int(values["mem"]) * resource.getpagesize()
                    figures["tcp_in_use"] = int(values["inuse"])
    except OSError:
        pass
    return figures


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def shares(count, processes):
    """`count` divided into whole parts."""
    return [count * (n + 1) // processes - count * n // processes for n in range(processes)]


def run(arguments):
    stages = [int(stage) for stage in arguments.stages.split(",")]
    per_process = raise_descriptor_limit()
    processes = arguments.processes or -(-max(stages) // per_process)
    if max(shares(max(stages), processes)) > per_process:
        raise Failure(f"the descriptor limit allows {per_process} connections in a process, "
                      f"{processes} processes are too few for {max(stages)}")
    pipes = []
    for number in range(processes):
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.Process(
            target=serve, args=(arguments, theirs, number * 10_000_000), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(ours)
    for stage in [0] + stages:
        cpu = cpu_seconds_of(arguments.pid) if arguments.pid else 0.0
        start = time.monotonic()
        latency = []
        for pipe, share in zip(pipes, shares(stage, processes)):
            pipe.send(share)
        for pipe in pipes:
            answer = pipe.recv()
            if isinstance(answer, str):
                raise Failure(answer)
            latency += answer
        seconds = time.monotonic() - start
        line = {"connections": stage, "seconds": round(seconds, 4)}
        line["p50_ms"] = round(percentile(latency, 0.50) * 1000, 2)
        line["p99_ms"] = round(percentile(latency, 0.99) * 1000, 2)
        if arguments.pid:
            line["cpu_seconds"] = round(cpu_seconds_of(arguments.pid) - cpu, 2)
            line.update(settled_memory_of(arguments.pid))
            line.update(kernel_memory())
        print(json.dumps(line), flush=True)


def main():
    try:
        run(parse_arguments())
    except (Failure, OSError, EOFError) as error:
        sys.exit(f"error: {error or 'a client process ended'}")


if __name__ == "__main__":
    main()
