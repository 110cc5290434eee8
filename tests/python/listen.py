#!/usr/bin/env python3
"""Listen for events; well behaved, or slow, failing or dying as the flags say."""

import asyncio
import os
from datetime import datetime
from decimal import Decimal
from typing import List, Optional
from uuid import UUID

import contract
import harness
from contract import Item, Size


def handlers(receive):
    """Handlers with the types of each of the contract's events, for Lightbus to cast to."""

    async def order_placed(
        event, order_id: UUID, placed_at: datetime, items: List[Item], total: Decimal, note: Optional[str] = None
    ):
        await receive(event, order_id=order_id, placed_at=placed_at, items=items, total=total, note=note)

    async def stock_changed(event, sku: str, left: int, sizes: List[Size], thumbnail: bytes, extra: dict):
        await receive(event, sku=sku, left=left, sizes=sizes, thumbnail=thumbnail, extra=extra)

    async def tick(event):
        await receive(event)

    return {"order_placed": order_placed, "stock_changed": stock_changed, "tick": tick}


def parse_flags():
    parser = harness.flags(__doc__, service_name="listener")
    parser.add_argument("--events", default=",".join(contract.EVENTS), help="comma list; '*' is every event")
    parser.add_argument("--listener-name", default="kit")
    parser.add_argument("--typed", action="store_true", help="cast to the types of the event; --events names one")
    parser.add_argument("--since", default="$", help="entry id at which a new group begins; 0: the oldest")
    parser.add_argument("--count", type=int, default=0, help="stop when this many are acknowledged")
    parser.add_argument("--timeout", type=float, default=0, help="end with code 3 after these seconds")
    parser.add_argument("--hold", type=float, default=0, help="take these seconds for each event")
    parser.add_argument("--die-after", type=int, default=0, help="die without a word in this event's handler")
    parser.add_argument("--fail-on", type=int, default=0, help="raise in this event's handler")
    parser.add_argument("--on-error", choices=("shutdown", "ack"), default="shutdown")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--acknowledgement-timeout", type=float, default=60)
    parser.add_argument("--reclaim-interval", type=float, help="seconds; as --acknowledgement-timeout if not given")
    parser.add_argument("--consumer-ttl", type=int, default=2_592_000)
    args = parser.parse_args()
    args.events = args.events.split(",")
    if args.typed and (len(args.events) != 1 or args.events[0] not in contract.EVENTS):
        parser.error(f"--typed goes with one of --events {', '.join(contract.EVENTS)}")
    return args


def main():
    args = parse_flags()
    bus = harness.open_bus(
        args,
        events={
            "batch_size": args.batch_size,
            "acknowledgement_timeout": args.acknowledgement_timeout,
            "reclaim_interval": args.reclaim_interval,
            "consumer_ttl": args.consumer_ttl,
        },
    )
    from lightbus import OnError

    client = bus.client
    counts = {"received": 0, "acked": 0}

    async def receive(event, **values):
        counts["received"] += 1
        types = {name: type(value).__name__ for name, value in values.items()}
        harness.report(**harness.describe_event(event), types=types)
        if counts["received"] == args.die_after:
            os._exit(harness.DIED)
        await asyncio.sleep(args.hold)
        if counts["received"] == args.fail_on:
            raise RuntimeError(f"told to fail on event {args.fail_on}")

    @client.after_event_execution()
    async def acknowledged(*, event_message, **_):
        counts["acked"] += 1
        harness.report(acked=event_message.id)
        if counts["acked"] == args.count:
            client.request_shutdown()

    client.listen_for_events(
        [(args.api, event) for event in args.events],
        handlers(receive)[args.events[0]] if args.typed else receive,
        listener_name=args.listener_name,
        options={"since": args.since},
        on_error=OnError.SHUTDOWN if args.on_error == "shutdown" else OnError.ACKNOWLEDGE_AND_LOG,
    )
    # Without this it would also pop calls to the internal APIs.
    client.set_features(["events"])

    async def ready():
        keys = args.events if args.stream_use == "per_event" else ["*"]
        streams = [f"{args.api}.{key}:stream" for key in keys]
        group = f"{args.service_name}-{args.listener_name}"
        await harness.until_consuming(args, streams, group)
        harness.report(ready=True, group=group, consumer=args.process_name, streams=streams)
        if args.timeout:
            await asyncio.sleep(args.timeout)
            harness.report(timeout=True, **counts)
            os._exit(harness.TIMED_OUT)

    harness.run_until_stopped(bus, ready, summary=lambda: dict(counts))


if __name__ == "__main__":
    main()
