#!/usr/bin/env python3
"""Breaks the handshakes of the mesh, one line at a time, and checks that loom's tests notice.

Prints a table: what was broken, and which tests failed. Exits with 1 if anything went unnoticed.
Works on a copy of the sources in target/loom-mutants; takes some minutes.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
COPY = TARGET / "loom-mutants"
# Its own: cargo would take a mutant that was built last for the real thing, and test that.
BUILT = TARGET / "loom-mutants-built"

# What it is, the file in src/mesh, what stands there, what is to stand there.
MUTANTS = [
    ("a push does not wake", "mailbox.rs", "self.queue.push(batch);\n        self.wake();",
     "self.queue.push(batch);"),
    ("a push wakes before it queues", "mailbox.rs", "self.queue.push(batch);\n        self.wake();",
     "self.wake();\n        self.queue.push(batch);"),
    ("no fence between queueing and looking for a sleeper", "mailbox.rs",
     "fn wake(&self) {\n        fence(Ordering::SeqCst);", "fn wake(&self) {"),
    ("no fence between announcing sleep and looking again", "mailbox.rs",
     "        fence(Ordering::SeqCst);\n        if self.is_empty()", "        if self.is_empty()"),
    ("no second look for mail before sleep", "mailbox.rs", "if self.is_empty() && !self.take_credit()",
     "if !self.take_credit()"),
    ("no second look for credit before sleep", "mailbox.rs",
     "if self.is_empty() && !self.take_credit()", "if self.is_empty()"),
    ("sleep is announced after the second look", "mailbox.rs",
     "self.flags.sleeping.swap(true, Ordering::Relaxed);", "let empty = self.is_empty();\n"
     "        self.flags.sleeping.swap(true, Ordering::Relaxed);\n        if empty { return true; }"),
    ("returned credit does not wake", "mailbox.rs",
     "self.flags.credit.store(true, Ordering::Release);\n        self.wake();",
     "self.flags.credit.store(true, Ordering::Release);"),
    ("returned credit wakes before it is marked", "mailbox.rs",
     "self.flags.credit.store(true, Ordering::Release);\n        self.wake();",
     "self.wake();\n        self.flags.credit.store(true, Ordering::Release);"),
    ("no fence between giving back and looking for who waits", "credit.rs",
     "        fence(Ordering::SeqCst);\n        let wake_at", "        let wake_at"),
    ("no fence between asking for credit and looking again", "credit.rs",
     "        fence(Ordering::SeqCst);\n        if !self.is_ample(shared)", "        if !self.is_ample(shared)"),
    ("no second look for credit after asking", "credit.rs",
     "if !self.is_ample(shared) {\n            return false;\n        }",
     "if self.left_as_known() <= self.reserve() {\n            return false;\n        }"),
    ("who has the reserve does not ask", "credit.rs",
     "        shared.wake_at.swap(wake_at, Ordering::Relaxed);\n",
     "        if self.left_as_known() == 0 {\n"
     "            shared.wake_at.swap(wake_at, Ordering::Relaxed);\n        }\n"),
    ("who waits is woken when three quarters are back", "credit.rs",
     "u64::from(self.limit / 2)", "u64::from(self.limit / 4)"),
    ("any credit is taken for more than the reserve", "credit.rs",
     "self.left(shared) > self.reserve()", "self.left(shared) > 0"),
    ("who waits is woken one unit too late", "credit.rs", "wake_at <= returned\n",
     "wake_at < returned\n"),
    ("who gives back forgets who waits", "credit.rs", "wake_at <= returned\n",
     "self.wake_at.swap(NOT_STARVED, Ordering::Relaxed) <= returned && wake_at <= returned\n"),
    ("the signal is cleared between announcing sleep and waiting", "loom_tests.rs",
     "        if !asleep {\n            self.end.go_on();", "        if asleep {\n"
     "            self.end.clear_wake();\n        } else {\n            self.end.go_on();"),
    ("a queue that gives the newest first", "sync.rs", "items.pop_front()", "items.pop_back()"),
]


def tests():
    """The names of the tests that fail."""
    env = dict(
        os.environ,
        RUSTFLAGS="--cfg loom",
        CARGO_TARGET_DIR=str(BUILT),
        CARGO_PROFILE_RELEASE_LTO="off",
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16",
        RUST_BACKTRACE="0",
    )
    command = ["cargo", "test", "--locked", "--release", "--lib", "--no-run"]
    built = subprocess.run(command, cwd=COPY, env=env, capture_output=True, text=True)
    binary = re.search(r"unittests src/lib.rs \((.+)\)", built.stderr)
    if built.returncode or not binary:
        sys.exit(f"does not build:\n{built.stderr[-2000:]}")
    binary = COPY / binary[1]
    listed = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^(mesh::loom_tests::\w+): test$", listed, re.M)
    if not names:
        sys.exit("there are no tests")
    # Each in a process of its own: some failures of loom's end the process.
    def fails(name):
        run = subprocess.run([binary, "--exact", name], capture_output=True, timeout=600)
        return run.returncode != 0
    return [name.rsplit("::", 1)[1] for name in names if fails(name)]


def main():
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for name in ["Cargo.toml", "Cargo.lock"]:
        shutil.copy(ROOT / name, COPY)
    for name in ["src", "benches", "loadtest"]:
        # With the present as their time, or cargo takes the last run's mutant to be up to date.
        shutil.copytree(ROOT / name, COPY / name, copy_function=shutil.copy)
    if failed := tests():
        sys.exit(f"fail as they are: {failed}")
    unnoticed = 0
    print("| broken | noticed by |\n|---|---|", flush=True)
    for what, file, old, new in MUTANTS:
        path = COPY / "src" / "mesh" / file
        sound = path.read_text()
        if sound.count(old) != 1:
            sys.exit(f"{file}: not found once: {old}")
        path.write_text(sound.replace(old, new))
        failed = tests()
        path.write_text(sound)
        unnoticed += not failed
        names = ", ".join(f"`{name}`" for name in failed) or "**nothing**"
        print(f"| {what} | {names} |", flush=True)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
