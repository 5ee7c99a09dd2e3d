"""Runs checks and prints a line for each: `ok` or `FAIL`, who, and what.

A check is a function that returns if all is well and raises if not. Each has a deadline, so that
a message that never comes fails one check and not the whole run.
"""

import queue
import signal
import sys
import time
import traceback

# The longest that one check may take, and that anything it waits for may, in seconds.
CHECK_SECONDS = 45
WAIT_SECONDS = 10
# How long to listen for what must not come.
QUIET_SECONDS = 0.3


class Checks:
    """The checks of one client program against one broker."""

    def __init__(self, client, shards, clean_up=lambda: None):
        self.clean_up = clean_up
        self.label = f"{client}, {shards} shard{'s' if shards != 1 else ''}"
        self.failed = 0
        signal.signal(signal.SIGALRM, self._out_of_time)

    @staticmethod
    def _out_of_time(_signal, _frame):
        raise TimeoutError(f"not done after {CHECK_SECONDS} s")

    def check(self, name, function, *arguments):
        """Runs one check."""
        signal.alarm(CHECK_SECONDS)
        try:
            function(*arguments)
            line = f"ok   {self.label}: {name}"
        except Exception as error:  # Whatever it is, it is this check's failure.
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)
            lines = [str(frame.lineno) for frame in where[1:]]
            reason = " ".join(str(error).split()) or type(error).__name__
            line = f"FAIL {self.label}: {name}: {reason} (lines {' < '.join(reversed(lines))})"
        finally:
            signal.alarm(0)
        self.clean_up()
        print(line, flush=True)

    def finish(self):
        """Ends the program: status 1 if any check failed."""
        sys.exit(1 if self.failed else 0)


def equal(actual, expected, what="value"):
    """Raises unless both are equal."""
    if actual != expected:
        raise AssertionError(f"{what} is {shorten(actual)}, not {shorten(expected)}")


def true(condition, what):
    """Raises unless the condition holds."""
    if not condition:
        raise AssertionError(what)


def shorten(value):
    """A value as text that fits on a line."""
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "..."


def take(source, what="a message", seconds=WAIT_SECONDS):
    """The next item of a queue."""
    try:
        return source.get(timeout=seconds)
    except queue.Empty:
        raise AssertionError(f"{what} did not come within {seconds} s") from None


def take_many(source, count, what="messages", seconds=CHECK_SECONDS - 5):
    """The next `count` items of a queue."""
    deadline = time.monotonic() + seconds
    items = []
    while len(items) < count:
        try:
            items.append(source.get(timeout=max(0.01, deadline - time.monotonic())))
        except queue.Empty:
            raise AssertionError(f"{len(items)} of {count} {what} came") from None
    return items


def nothing(source, seconds=QUIET_SECONDS):
    """Raises if an item comes."""
    try:
        item = source.get(timeout=seconds)
    except queue.Empty:
        return
    raise AssertionError(f"{shorten(item)} came and should not have")
