#!/usr/bin/env python3
"""Fire events: the contract's samples, one event named by flags, or those of a file.

A line of the file is {"event", "kwargs"?}. Whoever fires an API's events with Python also publishes that
API's schema: this process stores the contract's, or with --adhoc one made up from the arguments.
"""

import asyncio
import json
from datetime import datetime, timezone
from decimal import Decimal
from uuid import UUID

import contract
import harness
from contract import Item, Size

SAMPLES = [
    {
        "event": "order_placed",
        "kwargs": dict(
            order_id=UUID("0b5a7c1e-93d4-4d0f-8f3e-00000000002a"),
            placed_at=datetime(2031, 12, 30, 23, 59, 58, 123456, tzinfo=timezone.utc),
            items=[Item("pen ☃", 3, Decimal("1.10"))],
            total=Decimal("3.30"),
            note="ring twice",
        ),
    },
    {
        "event": "order_placed",
        "kwargs": dict(
            order_id=UUID("0b5a7c1e-93d4-4d0f-8f3e-00000000002b"),
            placed_at=datetime(2031, 1, 1),
            items=[],
            total=Decimal("-3"),
        ),
    },
    {
        "event": "stock_changed",
        "kwargs": dict(
            sku="pen ☃",
            left=0,
            sizes=[Size.SMALL, Size.LARGE],
            thumbnail=b"\x00\xffhello",
            extra={"z": [1, None, {"deep": True}], "a": 0.5},
        ),
    },
    {"event": "tick", "kwargs": {}},
]


def adhoc(args, specs):
    """An API whose events take what the given ones have."""
    from lightbus import Api, Event

    parameters = {}
    for spec in specs:
        parameters.setdefault(spec["event"], {}).update(spec.get("kwargs", {}))
    meta = type("Meta", (), {"name": args.api, "version": args.version})
    return type("Adhoc", (Api,), {"Meta": meta, **{e: Event(list(p)) for e, p in parameters.items()}})()


async def fire_all(bus, args, specs):
    for spec in specs:
        message = await bus.client.fire_event(
            args.api, spec["event"], kwargs=dict(spec.get("kwargs", {})), options={}
        )
        harness.report(**harness.describe_event(message))
        await asyncio.sleep(args.interval)


def main():
    parser = harness.flags(__doc__.splitlines()[0], service_name="firer")
    parser.add_argument("--sample", action="store_true", help="the contract's samples, from Python's types")
    parser.add_argument("--event")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="JSON object, with --event")
    parser.add_argument("--events", help="file of events, one JSON object a line; '-' is stdin")
    parser.add_argument("--count", type=int, default=1, help="fire all of it this many times")
    parser.add_argument("--interval", type=float, default=0, help="seconds after each event")
    parser.add_argument("--adhoc", action="store_true", help="the API is not the contract's")
    parser.add_argument("--version", type=int, default=1, help="of the API, with --adhoc")
    parser.add_argument("--max-stream-length", type=int, default=100_000, help="0: streams are never trimmed")
    args = parser.parse_args()
    if bool(args.sample) + bool(args.event) + bool(args.events) != 1:
        parser.error("one of --sample, --event and --events")
    if args.sample:
        specs = SAMPLES
    elif args.events:
        specs = harness.json_lines(args.events)
    else:
        specs = [{"event": args.event, "kwargs": args.kwargs}]

    bus = harness.open_bus(args, events={"max_stream_length": args.max_stream_length})
    bus.client.register_api(adhoc(args, specs) if args.adhoc else contract.shop(args.api))
    harness.run_once(bus, fire_all(bus, args, specs * args.count))


if __name__ == "__main__":
    main()
