#!/usr/bin/env python3
"""Try the programs of this folder on each other: Python Lightbus on both sides.

    tests/python/selftest.py [NAME...]      all tests, or those whose name has one of these in it

Runs on a redis-server of its own; needs nothing but Python and redis-server to be started.
Whoever writes a counterpart in another language finds here what the programs do when all is well.
"""

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 30


class Program:
    """A program of this folder, its lines of output collected as they come."""

    def __init__(self, kit, name, *flags, stdin=None):
        self.name, self.lines, self._queue = name, [], queue.Queue()
        self.stderr = tempfile.TemporaryFile(mode="w+", encoding="utf8")
        self.process = subprocess.Popen(
            [kit.python, str(HERE / name), "--redis-url", kit.url, *flags],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        if stdin is not None:
            self.process.stdin.write(stdin)
            self.process.stdin.close()
        # A thread, so that waiting for a line can have an end.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def until(self, key):
        """The next line that has `key`."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._queue.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self.name} printed no {key!r}: {self.lines}\n{self.log()}")
            self.lines.append(line)
            if key in line:
                return line

    def end(self, code=0):
        """Wait for the end, check the exit code; all lines."""
        got = self.process.wait(PATIENCE)
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        assert got == code, f"{self.name} ended with {got}, not {code}: {self.lines}\n{self.log()}"
        return self.lines

    def stop(self):
        self.process.terminate()
        return self.end()

    def log(self):
        self.stderr.seek(0)
        return self.stderr.read()[-2000:]


class Kit:
    """A broker, and the programs started on it."""

    def __init__(self):
        self.python = subprocess.run(
            [str(HERE / "setup.sh")], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        self.folder = tempfile.mkdtemp(prefix="lightbus-selftest-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        server = os.environ.get("LIGHTBUS_TEST_REDIS_SERVER", "redis-server")
        self.redis = subprocess.Popen(
            [server, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
             "--dir", self.folder, "--databases", "1000"],
            stdout=subprocess.DEVNULL,
        )
        self.database = -1
        self.programs = []
        self._await_redis()

    def _await_redis(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def fresh(self):
        """End what is left of the last test; the next one has a database of its own."""
        self.end_programs()
        self.database += 1
        self.url = f"redis://127.0.0.1:{self.port}/{self.database}"

    def run(self, name, *flags, **options):
        self.programs.append(Program(self, name, *flags, **options))
        return self.programs[-1]

    def ready(self, name, *flags):
        program = self.run(name, *flags)
        program.until("ready")
        return program

    def end_programs(self):
        for program in self.programs:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait()
        self.programs = []

    def close(self):
        self.end_programs()
        self.redis.terminate()
        self.redis.wait()
        shutil.rmtree(self.folder)


def ids(lines, key="event"):
    return sorted(line["id"] for line in lines if key in line)


def test_tutorial(kit):
    service = kit.ready("tutorial/auth_service.py")
    assert kit.run("tutorial/check_password.py").end() == [{"result": True}]
    assert kit.run("tutorial/check_password.py", "--password", "wrong").end() == [{"result": False}]
    other = kit.ready("tutorial/another_service.py", "--count", "2")
    for _ in range(2):
        kit.run("tutorial/manually_register_user.py", "--email", "zoë@example.com").end()
    heard = [line for line in other.end() if "event" in line]
    assert [line["email"] for line in heard] == ["zoë@example.com"] * 2, heard
    assert other.lines[-1]["handled"] == 2
    service.stop()


def test_calls(kit):
    service = kit.ready("serve.py")
    done = kit.run("call.py", "--set", "all").end()[-1]
    assert done["mismatched"] == 0 and done["calls"] > 50, done
    lines = service.stop()
    # All but the call that was given up before its answer, which may still be under way.
    assert len(ids(lines, "call")) - len(ids(lines, "answered")) <= 1, lines


def test_calls_in_parallel(kit):
    kit.ready("serve.py", "--process-name", "one")
    kit.ready("serve.py", "--process-name", "two")
    done = kit.run("call.py", "--set", "types", "--repeat", "10", "--concurrency", "16").end()[-1]
    assert done["mismatched"] == 0, done


def test_calls_of_a_file(kit):
    kit.ready("serve.py")
    calls = '{"proc": "add", "kwargs": {"a": 1, "b": 1}, "result": 2}\n{"proc": "nothing", "result": 0}\n'
    lines = kit.run("call.py", "--calls", "-", stdin=calls).end(code=1)
    assert [line.get("match") for line in lines[:2]] == [True, False], lines


def test_calls_without_validation(kit):
    kit.ready("serve.py", "--no-validate")
    calls = '{"proc": "no_such_procedure", "error": "LightbusWorkerError"}\n'
    kit.run("call.py", "--calls", "-", "--no-validate", stdin=calls).end()


def test_call_that_nobody_serves(kit):
    calls = '{"proc": "add", "kwargs": {"a": 1, "b": 1}, "error": "LightbusTimeout"}\n'
    kit.run("call.py", "--calls", "-", "--rpc-timeout", "1", stdin=calls).end()
    calls = '{"proc": "add", "kwargs": {"a": 1, "b": 1}, "error": "UnknownApi"}\n'
    kit.run("call.py", "--calls", "-", "--strict", stdin=calls).end()


def test_announce(kit):
    kit.ready("serve.py")
    listener = kit.ready("listen.py", "--events", "tick", "--count", "1")
    calls = '{"proc": "announce", "kwargs": {"event": "tick", "arguments": {}}}\n'
    answer = kit.run("call.py", "--calls", "-", stdin=calls).end()[0]["result"]
    assert ids(listener.end()) == [answer]


def test_events(kit):
    for use in ("per_api", "per_event"):
        flags = ("--stream-use", use, "--api", f"kit.{use}")
        listener = kit.ready("listen.py", *flags, "--count", "4")
        fired = kit.run("fire.py", *flags, "--sample").end()
        assert ids(listener.end()) == ids(fired) and len(fired) == 4


def test_every_event(kit):
    listener = kit.ready("listen.py", "--events", "*", "--count", "4")
    assert ids(kit.run("fire.py", "--sample").end()) == ids(listener.end())


def test_typed_listeners(kit):
    want = {
        "order_placed": ("UUID", "datetime", "list", "Decimal"),
        "stock_changed": ("str", "int", "list", "bytes", "dict"),
    }
    for event, types in want.items():
        listener = kit.ready(
            "listen.py", "--events", event, "--typed", "--listener-name", event, "--count", "1"
        )
        kit.run("fire.py", "--sample").end()
        heard = next(line for line in listener.end() if "event" in line)
        assert tuple(heard["types"].values())[: len(types)] == types, heard


def test_events_are_shared(kit):
    flags = ("--events", "tick", "--batch-size", "1", "--hold", "0.02")
    two = [kit.ready("listen.py", *flags, "--process-name", name) for name in ("one", "two")]
    fired = kit.run("fire.py", "--event", "tick", "--count", "20").end()
    time.sleep(1.5)
    heard = [line for listener in two for line in listener.stop()]
    assert ids(heard) == ids(fired)


def test_adhoc_events_from_the_beginning(kit):
    flags = ("--api", "some.other", "--event", "moved")
    kit.run("fire.py", *flags, "--adhoc", "--version", "7", "--kwargs", '{"x": 1}', "--count", "3").end()
    listener = kit.run(
        "listen.py", "--api", "some.other", "--events", "moved", "--since", "0", "--count", "3"
    )
    assert [line["version"] for line in listener.end() if "event" in line] == [7, 7, 7]


def test_restart_after_a_death(kit):
    flags = ("--events", "tick", "--process-name", "one")
    dying = kit.ready("listen.py", *flags, "--die-after", "1")
    kit.run("fire.py", "--event", "tick").end()
    dying.end(code=9)
    assert kit.run("listen.py", *flags, "--count", "1").end()[-1]["acked"] == 1


def test_take_over_after_a_death(kit):
    flags = ("--events", "tick", "--acknowledgement-timeout", "1", "--reclaim-interval", "0.5")
    dying = kit.ready("listen.py", *flags, "--process-name", "one", "--die-after", "1")
    kit.run("fire.py", "--event", "tick").end()
    dying.end(code=9)
    heir = kit.run("listen.py", *flags, "--process-name", "two", "--count", "1")
    assert heir.end()[-1]["acked"] == 1


def test_failing_handlers(kit):
    stops = kit.ready("listen.py", "--events", "tick", "--fail-on", "1", "--listener-name", "stops")
    goes_on = kit.ready(
        "listen.py", "--events", "tick", "--fail-on", "1", "--listener-name", "goes-on", "--on-error", "ack"
    )
    kit.run("fire.py", "--event", "tick", "--count", "2").end()
    assert stops.end(code=1)[-1]["acked"] == 0
    for _ in range(2):
        goes_on.until("event")
    goes_on.stop()


def test_listener_that_hears_nothing(kit):
    assert kit.run("listen.py", "--events", "tick", "--timeout", "1").end(code=3)[-1]["timeout"]


def test_schema(kit):
    waiting = kit.run("schema.py", "--wait", "20")
    kit.ready("serve.py")
    schema = waiting.end()[0]["schema"]
    assert "total" in schema["rpcs"] and "tick" in schema["events"], schema
    check = ("schema.py", "--wait", "5", "--name", "add", "--validate")
    assert kit.run(*check, '{"a": 1, "b": 2}').end() == [{"valid": True}]
    assert kit.run(*check, '{"a": 1}').end(code=1)[0]["error"] == "ValidationError"
    assert kit.run(*check, '"x"', "--response").end(code=1)[0]["error"] == "ValidationError"
    assert [line["api"] for line in kit.run("schema.py", "--all").end()][-1] == "kit.shop"
    assert kit.run("schema.py", "--api", "none").end(code=1)[0]["error"] == "SchemaNotFound"


def test_history_and_lag(kit):
    fired = kit.run("fire.py", "--event", "tick", "--count", "5").end()
    past = kit.run("history.py", "--event", "tick", "--batch-size", "2").end()
    assert [line["id"] for line in past] == [line["id"] for line in reversed(fired)]
    kit.ready("listen.py", "--events", "tick").stop()
    kit.run("fire.py", "--event", "tick", "--count", "3").end()
    lag = kit.run("history.py", "--lag", "--event", "tick", "--service-name", "listener")
    assert lag.end() == [{"lag": 3}]


def main():
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    wanted = sys.argv[1:] or [""]
    failed = passed = 0
    kit = Kit()
    try:
        for name, test in tests.items():
            if not any(part in name for part in wanted):
                continue
            kit.fresh()
            began = time.monotonic()
            try:
                test(kit)
            except Exception as error:  # pylint: disable=broad-except
                failed += 1
                print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            else:
                passed += 1
                print(f"ok     {name} ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        kit.close()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
