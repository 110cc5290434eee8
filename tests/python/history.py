#!/usr/bin/env python3
"""Read the past events of an API, newest first; or how far a listener is behind."""

from datetime import datetime

import harness


async def tell(bus, args):
    async with bus.client.transport_registry.get_event_transport(args.api) as transport:
        if args.lag:
            pending = not args.without_pending
            lag = await transport.lag(args.api, args.event, args.listener_name, include_pending=pending)
            harness.report(lag=lag)
            return
        events = transport.history(
            args.api, args.event, start=args.start, stop=args.stop, batch_size=args.batch_size
        )
        async for event in events:
            harness.report(**harness.describe_event(event))


def main():
    parser = harness.flags(__doc__, service_name="historian")
    parser.add_argument("--event", default="*")
    parser.add_argument("--start", type=datetime.fromisoformat, help="ISO 8601 with a zone")
    parser.add_argument("--stop", type=datetime.fromisoformat)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lag", action="store_true", help="of the group of --service-name and --listener-name")
    parser.add_argument("--listener-name", default="kit")
    parser.add_argument("--without-pending", action="store_true", help="leave events under way out of the lag")
    args = parser.parse_args()
    bus = harness.open_bus(args)
    harness.run_once(bus, tell(bus, args))


if __name__ == "__main__":
    main()
