#!/usr/bin/env python3
"""Another service, which wants to know of every user who registers."""

from tutorial import harness, open_bus


def add_flags(parser):
    parser.add_argument("--listener-name", default="send-welcome")
    parser.add_argument("--count", type=int, default=0, help="stop after this many events")


def main():
    bus, args = open_bus("another-service", __doc__, add_flags)
    counts = {"handled": 0}

    def send_welcome(event, username: str, email: str):
        harness.report(event="user_registered", id=event.id, username=username, email=email)

    bus.auth.user_registered.listen(send_welcome, listener_name=args.listener_name)
    bus.client.set_features(["events"])

    # Not in the handler itself: the event is acknowledged only after it.
    @bus.client.after_event_execution()
    async def handled(**_):
        counts["handled"] += 1
        if counts["handled"] == args.count:
            bus.client.request_shutdown()

    async def ready():
        stream = "auth.user_registered:stream" if args.stream_use == "per_event" else "auth.*:stream"
        await harness.until_consuming(args, [stream], f"{args.service_name}-{args.listener_name}")
        harness.report(ready=True)

    harness.run_until_stopped(bus, ready, summary=lambda: dict(counts))


if __name__ == "__main__":
    main()
