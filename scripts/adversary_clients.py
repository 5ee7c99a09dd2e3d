"""Misbehaving MQTT clients, for adversaries.py: what each crowd does, in a process of its own.

Plain sockets and no library. A crowd says `ready` when it is in place, goes on until it is told to
stop (or is frozen or killed), and may answer with what it has seen.
"""

import ctypes
import errno
import multiprocessing
import os
import random
import resource
import select
import signal
import socket
import struct
import time

RESET = struct.pack("ii", 1, 0)
CONNACK = 0x20
PUBLISH = 0x30
PUBACK = 0x40
DISCONNECT = 0xE0


def text(value):
    return struct.pack(">H", len(value)) + value


def packet(kind, body):
    length, left = b"", len(body)
    while True:
        left, digit = divmod(left, 128)
        length += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([kind]) + length + body


def connect_packet(name, keep_alive=0, will=None, clean=True):
    """A CONNECT of MQTT 5."""
    flags = (0x02 if clean else 0) | (0x04 if will else 0)
    expiry = b"" if clean else b"\x11" + struct.pack(">I", 3600)
    body = text(b"MQTT") + bytes([5, flags]) + struct.pack(">H", keep_alive)
    body += bytes([len(expiry)]) + expiry + text(name)
    if will:
        body += b"\x00" + text(will) + text(b"")
    return packet(0x10, body)


def subscribe_packet(topic, qos=0):
    return packet(0x82, b"\x00\x01\x00" + text(topic) + bytes([qos]))


def unsubscribe_packet(topic):
    return packet(0xA2, b"\x00\x02\x00" + text(topic))


def publish_packet(topic, payload, retain=False):
    return packet(0x31 if retain else 0x30, text(topic) + b"\x00" + payload)


def packets(data):
    """The complete packets at the front of `data` as (first byte, body), and the rest."""
    found, at = [], 0
    while True:
        length, shift, end = 0, 0, at + 1
        while True:
            if end >= len(data):
                return found, data[at:]
            byte = data[end]
            length |= (byte & 0x7F) << shift
            shift, end = shift + 7, end + 1
            if byte < 0x80:
                break
        if end + length > len(data):
            return found, data[at:]
        found.append((data[at], data[end:end + length]))
        at = end + length


def open_socket(target, number=0):
    """A connection from one of several source addresses, if the target is on loopback: each has
    ports for some 28,000."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if target[0].startswith("127."):
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        connection.bind((f"127.0.0.{2 + number % 16}", 0))
    connection.connect(target)
    return connection


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def receive_until(connection, kind):
    """Reads until a packet of this kind has come; returns its body."""
    data = b""
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("the broker has closed")
        found, data = packets(data + chunk)
        for first, body in found:
            if first & 0xF0 == kind:
                return body


def send_some(connection, data):
    """As much as goes out at once; False when the connection is over."""
    try:
        connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


class Crowd:
    """Clients in a process of their own."""

    def __init__(self, work, *arguments):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=run, args=(work, theirs, arguments))
        self.process.daemon = True
        self.process.start()
        theirs.close()

    def ready(self, timeout=120):
        """Waits until it is in place."""
        if not self.pipe.poll(timeout) or self.pipe.recv() != "ready":
            raise RuntimeError("a crowd is not in place in time")

    def stop(self, timeout=60):
        """Tells it to stop, and returns what it has seen; None if it has failed."""
        try:
            self.pipe.send("stop")
        except BrokenPipeError:
            pass  # it has ended by itself, and said what it has seen
        try:
            seen = self.pipe.recv() if self.pipe.poll(timeout) else None
        except EOFError:
            seen = None
        self.process.join(timeout)
        return seen

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        """Ends it at once, and with it all of its connections."""
        self.process.kill()
        self.process.join()


class Orders:
    """The crowd's side of the pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def ready(self):
        self.pipe.send("ready")

    def stopped(self, wait=0):
        return self.pipe.poll(wait)


def run(work, pipe, arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pipe.send(work(Orders(pipe), *arguments))


def connected(target, count, prefix, after=b"", **options):
    """So many connected clients; `after` is sent behind each CONNECT."""
    connections = []
    for start in range(0, count, 200):
        group = []
        for number in range(start, min(count, start + 200)):
            connection = open_socket(target, number)
            name = b"%s-%d" % (prefix, number)
            will = b"will/" + name if options.get("will") else None
            keep_alive = options.get("keep_alive", 0)
            connection.sendall(connect_packet(name, keep_alive, will) + after)
            group.append(connection)
        for connection in group:
            receive_until(connection, CONNACK)
        connections += group
    return connections


# ---- What crowds do: each a function that is run by `Crowd` --------------------------------------


def hold(orders, target, count, prefix, keep_alive=0, topic=None, will=False):
    """Clients that connect, subscribe and do nothing."""
    after = subscribe_packet(topic, 1) if topic else b""
    kept = connected(target, count, prefix, after, keep_alive=keep_alive, will=will)
    orders.ready()
    orders.stopped(None)
    return len(kept)


def ping(orders, target, count, prefix, keep_alive, every):
    """Well-behaved clients that send PINGREQ in time; how many of them were thrown out."""
    kept = connected(target, count, prefix, keep_alive=keep_alive)
    orders.ready()
    lost = set()
    while not orders.stopped(every):
        for connection in kept:
            if connection in lost or not send_some(connection, b"\xc0\x00"):
                lost.add(connection)
                continue
            try:
                data = connection.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data or DISCONNECT in [first for first, _ in packets(data)[0]]:
                lost.add(connection)
    return len(lost)


def never_connect(orders, target, count):
    """Connections that send nothing, a byte now and then, or half a CONNECT; new ones follow those
    that are closed. How many were opened."""
    poll, sockets, opened = select.poll(), {}, 0
    said_ready = False
    whole = connect_packet(b"never")
    while not orders.stopped():
        while len(sockets) < count and not orders.stopped():
            connection = open_socket(target, opened)
            if opened % 3 == 1:
                send_some(connection, whole[:len(whole) // 2])
            sockets[connection.fileno()] = (connection, opened % 3, time.monotonic())
            poll.register(connection, select.POLLIN)
            opened += 1
        if not said_ready:
            orders.ready()
            said_ready = True
        for descriptor, _ in poll.poll(300):
            poll.unregister(descriptor)
            sockets.pop(descriptor)[0].close()
        now = time.monotonic()
        for connection, kind, since in list(sockets.values()):
            at = int((now - since) * 2)
            if kind == 2 and at < len(whole) - 1:
                send_some(connection, whole[at:at + 1])
    return opened


def most_of_a_packet(orders, target, count):
    """Connections that send nearly all of a packet of a megabyte, half of them before CONNECT."""
    orders.ready()
    large = publish_packet(b"t", bytes(1_000_000))[:-1]
    connect = packet(0x10, text(b"MQTT") + b"\x05\x02\0\0\0" + text(b"x") + bytes(1_000_000))[:-1]
    sent, kept = 0, []
    for number in range(count):
        if orders.stopped():
            break
        try:
            connection = open_socket(target, number)
            kept.append(connection)
            if number % 2:
                connection.sendall(connect_packet(b"large-%d" % number))
                receive_until(connection, CONNACK)
            connection.settimeout(2)
            connection.sendall(large if number % 2 else connect)
            sent += len(large)
        except OSError:
            continue
    orders.stopped(None)
    return sent


def take_over(orders, target, name):
    """Connections that take one client id from each other, as fast as it goes. How many."""
    orders.ready()
    count, kept = 0, []
    while not orders.stopped():
        try:
            connection = open_socket(target, count)
            connection.sendall(connect_packet(name, clean=bool(count % 2)))
        except OSError:
            continue
        kept.append(connection)
        count += 1
        if len(kept) > 50:
            kept.pop(0).close()
    return count


def knock(orders, target):
    """Connects and breaks off, as fast as it goes: with nothing, half a CONNECT, or a whole one."""
    orders.ready()
    count = 0
    whole = connect_packet(b"knock")
    while not orders.stopped():
        try:
            connection = open_socket(target, count)
            send_some(connection, [b"", whole[:9], whole][count % 3])
        except OSError:
            continue
        reset(connection)
        count += 1
    return count


def never_read(orders, target, count, topic):
    """Subscribers that read nothing but their CONNACK."""
    kept = []
    for number in range(count):
        connection = open_socket(target, number)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(connect_packet(b"never-read-%d" % number))
        receive_until(connection, CONNACK)
        connection.sendall(subscribe_packet(topic, number % 3))
        kept.append(connection)
    orders.ready()
    orders.stopped(None)
    return len(kept)


def flood(orders, target, topic, size, per_second=0):
    """Publishes with QoS 0, as fast as the broker takes it or at a rate. How many messages."""
    connection = open_socket(target)
    connection.sendall(connect_packet(b"flood-%d" % os.getpid()))
    receive_until(connection, CONNACK)
    connection.settimeout(5)
    message = publish_packet(topic, bytes(size))
    orders.ready()
    batch = max(1, per_second // 20) if per_second else max(1, 100_000 // len(message))
    count = 0
    while not orders.stopped(0.05 if per_second else 0):
        try:
            connection.sendall(message * batch)
        except socket.timeout:
            break
        count += batch
    return count


def churn(orders, target, topics):
    """Subscribes and unsubscribes, reading all that comes. How many pairs."""
    connection = open_socket(target)
    connection.sendall(connect_packet(b"churn-%d" % os.getpid()))
    receive_until(connection, CONNACK)
    orders.ready()
    burst = b"".join(subscribe_packet(t) + unsubscribe_packet(t) for t in topics) * 20
    count = 0
    while not orders.stopped():
        connection.sendall(burst)
        answers, data = 0, b""
        while answers < 40 * len(topics):
            found, data = packets(data + connection.recv(1 << 16))
            answers += sum(first in (0x90, 0xB0) for first, _ in found)
        count += 20 * len(topics)
    return count


def retain(target, count, payload):
    """Sets (or with an empty payload clears) so many retained messages."""
    connection = open_socket(target)
    connection.sendall(connect_packet(b"retain"))
    receive_until(connection, CONNACK)
    for start in range(0, count, 500):
        numbers = range(start, min(count, start + 500))
        connection.sendall(b"".join(publish_packet(b"kept/%d" % n, payload, True) for n in numbers))
    connection.sendall(packet(0x32, text(b"done") + b"\x00\x07\x00"))
    receive_until(connection, PUBACK)
    connection.close()


def read_retained(orders, target, topic, expected):
    """Subscribers that do read. How many of the expected messages have not come."""
    connection = open_socket(target)
    connection.sendall(connect_packet(b"reader-%d" % os.getpid()))
    receive_until(connection, CONNACK)
    connection.settimeout(60)
    orders.ready()
    connection.sendall(subscribe_packet(topic))
    left, data = expected, b""
    try:
        while left > 0:
            chunk = connection.recv(1 << 16)
            if not chunk:
                break
            found, data = packets(data + chunk)
            left -= sum(first & 0xF0 == PUBLISH for first, _ in found)
    except OSError as error:
        if error.errno not in (None, errno.ECONNRESET):
            raise
    orders.stopped(None)
    return left


def garbage(orders, target):
    """Sends what is nearly MQTT, before and after CONNECT. How many connections."""
    orders.ready()
    chance, count = random.Random(5), 0
    heads = [0x10, 0x30, 0x32, 0x34, 0x3D, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0, 0xF0]
    while not orders.stopped():
        try:
            connection = open_socket(target, count)
            count += 1
            if count % 3:
                connection.sendall(connect_packet(b"garbage-%d" % (count % 7)))
            body = chance.randbytes(chance.randrange(200))
            connection.sendall(packet(chance.choice(heads), body) + chance.randbytes(50))
            connection.settimeout(0.002)
            connection.recv(4096)
        except OSError:
            pass
        connection.close()
    return count


def hold_in(orders, namespace, *arguments, **options):
    """As `hold`, in the network namespace of another process."""
    with open(f"/proc/{namespace}/ns/net", "rb") as other:
        if ctypes.CDLL(None, use_errno=True).setns(other.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    return hold(orders, *arguments, **options)
