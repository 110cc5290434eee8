#!/usr/bin/env python3
"""Call procedures: those whose answers the contract settles (--set), or those of a file (--calls).

A line of the file is {"proc", "kwargs"?, "timeout"?, "label"?, "api"?, and "result" or "error" to expect}.
"""

import asyncio
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import contract
import harness
from contract import Item, Place, Size

SAMPLE_ID = UUID("0b5a7c1e-93d4-4d0f-8f3e-00000000002a")
UTC_MOMENT = datetime(2031, 12, 30, 23, 59, 58, 123456, tzinfo=timezone.utc)
NEPAL = timezone(timedelta(hours=5, minutes=45))
ITEMS = [Item("pen", 3, Decimal("1.10")), Item("ink", 1, Decimal("0.20"))]

JSON_VALUES = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one as a float": 1.0,
    "negative": -7,
    "32 bits exceeded": 2**31,
    "float precision exceeded": 2**53 + 1,
    "smallest i64": -(2**63),
    "largest u64": 2**64 - 1,
    "fraction": -0.25,
    "small exponent": 1e-7,
    "large exponent": 1e300,
    "empty text": "",
    "escapes": '" \\ / \b \f \n \r \t \x00 \x1f \x7f',
    "beyond ascii": "é ☃ 😀 \u2028 \ufeff",
    "empty array": [],
    "nested arrays": [1, [2, [3, [None]]]],
    "empty object": {},
    "nested objects": {"b": 1, "a": {"c": None, "": [{}]}},
    "10 kB of text": "0123456789" * 1000,
}


def call(proc, label=None, timeout=None, **kwargs):
    return {"proc": proc, "label": label or proc, "timeout": timeout, "kwargs": kwargs}


def basic():
    """JSON's own values, defaults."""
    yield {**call("add", a=2, b=40), "result": 42}
    yield {**call("add", "add below zero", a=-2, b=1), "result": -1}
    yield {**call("join", words=["a", "é", ""]), "result": "a é "}
    yield {**call("join", "join with a separator", words=["a", "b"], separator="-"), "result": "a-b"}
    yield {**call("nothing"), "result": None}
    yield {**call("defaults", a=1), "result": {"a": 1, "b": 2, "c": "three", "d": None}}
    yield {**call("defaults", "all given", a=1, b=5, c="x", d=9), "result": {"a": 1, "b": 5, "c": "x", "d": 9}}
    for name, value in JSON_VALUES.items():
        yield {**call("echo", f"echo {name}", value=value), "result": value}
    yield {**call("sleep", seconds=0.1), "result": 0.1}
    yield {**call("block", seconds=0.1), "result": 0.1}


def types():
    """Values that have a form of their own on the wire, sent as Python's types."""
    yield {**call("shift", moment=UTC_MOMENT, days=2), "result": "2032-01-01T23:59:58.123456+00:00"}
    yield {
        **call("shift", "shift elsewhere", moment=datetime(2031, 1, 1, tzinfo=NEPAL), days=-1),
        "result": "2030-12-31T00:00:00+05:45",
    }
    yield {
        **call("shift", "shift nowhere", moment=datetime(2031, 1, 1, 1, 2, 3), days=0),
        "result": "2031-01-01T01:02:03",
    }
    yield {**call("next_day", day=date(2032, 2, 28)), "result": "2032-02-29"}
    yield {**call("total", items=ITEMS), "result": "3.50"}
    yield {**call("total", "total of nothing", items=[]), "result": "0"}
    yield {
        **call("customer", id=SAMPLE_ID),
        "result": {
            "id": str(SAMPLE_ID),
            "name": "Zoë ☃",
            "born": "1990-02-28",
            "place": {"street": "Dam", "number": 1, "country": "NL"},
            "size": "medium",
            "tags": ["a", "b"],
            "ratings": {"chess": 1.5},
            "nickname": None,
        },
    }
    yield {**call("reverse", data=b"\x00\xffab"), "result": "YmH/AA=="}
    yield {**call("reverse", "reverse nothing", data=b""), "result": ""}
    yield {**call("larger", size=Size.SMALL), "result": "medium"}
    yield {**call("larger", "larger than large", size=Size.LARGE), "result": "large"}
    yield {
        **call("move", place=Place("Kade", 7), number=8),
        "result": {"street": "Kade", "number": 8, "country": "NL"},
    }
    yield {**call("swap", pair=(1, "one")), "result": ["one", 1]}
    yield {**call("unique", words=["b", "a", "b"]), "result": ["a", "b"], "any_order": True}
    yield {**call("maybe"), "result": None}
    yield {**call("maybe", "maybe null", moment=None), "result": None}
    yield {**call("maybe", "maybe a moment", moment=UTC_MOMENT), "result": UTC_MOMENT.isoformat()}
    arguments = dict(
        moment=UTC_MOMENT,
        day=date(2031, 12, 30),
        amount=Decimal("12.50"),
        id=SAMPLE_ID,
        data=b"\x00\xff\x10",
        size=Size.LARGE,
        place=Place("Kade", 7),
        items=ITEMS,
        pair=(1, "one"),
        words={"x"},
    )
    # What a type is called is the service's business; that all arrived is not.
    yield {**call("types", **arguments), "keys": sorted([*arguments, "maybe"])}


def errors():
    """What fails in the service, what the caller refuses to send, what takes too long."""
    for kind, error in contract.FAILURES.items():
        yield {
            **call("fail", f"fail {kind}", kind=kind, message="broken: é ☃"),
            "error": "LightbusWorkerError",
            "message_has": "broken: é ☃",
        }
    refused = "ValidationError"
    yield {**call("add", "wrong type", a="1", b=2), "error": refused}
    yield {**call("add", "bool for an int", a=True, b=2), "error": refused}
    yield {**call("add", "argument missing", a=1), "error": refused}
    yield {**call("add", "argument too many", a=1, b=2, c=3), "error": refused}
    yield {**call("larger", "not in the enum", size="huge"), "error": refused}
    yield {**call("move", "field missing", place={"street": "Kade"}, number=1), "error": refused}
    yield {**call("no_such_procedure"), "error": "SchemaNotFound"}
    yield {**call("sleep", "slower than the caller waits", timeout=0.5, seconds=1), "error": "LightbusTimeout"}


SETS = {"basic": basic, "types": types, "errors": errors}


async def make(bus, api, spec):
    """Make one call; the line that tells of it."""
    line = {"label": spec.get("label") or spec["proc"], "proc": spec["proc"]}
    options = {"timeout": spec["timeout"]} if spec.get("timeout") else {}
    started = time.perf_counter()
    try:
        line["result"] = await bus.client.call_rpc_remote(
            spec.get("api", api), spec["proc"], kwargs=spec.get("kwargs", {}), options=options
        )
        line["ok"] = True
    except Exception as error:  # pylint: disable=broad-except
        message, _, trace = str(error).partition("\nRemote stack trace:\n")
        line.update(ok=False, error=type(error).__name__, message=message, trace=trace)
    line["ms"] = round((time.perf_counter() - started) * 1000, 3)
    met = meets(spec, line)
    if met is not None:
        line["match"] = met
        if not met:
            line["expected"] = {k: spec[k] for k in ("result", "error", "keys", "message_has") if k in spec}
    return line


def meets(spec, line):
    """Whether the line is as expected; None if nothing was."""
    if "error" in spec:
        return line.get("error") == spec["error"] and spec.get("message_has", "") in line["message"]
    if "keys" in spec:
        return line["ok"] and isinstance(line["result"], dict) and sorted(line["result"]) == spec["keys"]
    if "result" in spec:
        if spec.get("any_order") and line["ok"]:
            return sorted(line["result"]) == sorted(spec["result"])
        # Python takes True for 1 and 1 for 1.0; JSON text does not.
        return line["ok"] and repr_json(line["result"]) == repr_json(spec["result"])
    return None


def repr_json(value):
    return harness.json.dumps(value, sort_keys=True)


async def call_all(bus, args, specs):
    turn = asyncio.Semaphore(args.concurrency)
    counts = {"calls": 0, "failed": 0, "mismatched": 0}

    async def one(spec):
        async with turn:
            line = await make(bus, args.api, spec)
        counts["calls"] += 1
        counts["failed"] += not line["ok"]
        counts["mismatched"] += line.get("match") is False
        harness.report(**line)

    await asyncio.gather(*(one(spec) for spec in specs))
    harness.report(done=True, **counts)
    return harness.FAILED if counts["mismatched"] else harness.OK


def main():
    parser = harness.flags(__doc__.splitlines()[0], service_name="caller")
    parser.add_argument("--set", default="all", help=f"comma list of {', '.join(SETS)}; or all")
    parser.add_argument("--calls", help="file of calls, one JSON object a line; '-' is stdin")
    parser.add_argument("--repeat", type=int, default=1, help="make all calls this many times")
    parser.add_argument("--concurrency", type=int, default=1, help="calls in flight at most")
    args = parser.parse_args()
    if args.calls:
        specs = harness.json_lines(args.calls)
    else:
        names = list(SETS) if args.set == "all" else args.set.split(",")
        specs = [spec for name in names for spec in SETS[name]()]
    bus = harness.open_bus(args)
    harness.run_once(bus, call_all(bus, args, specs * args.repeat))


if __name__ == "__main__":
    main()
