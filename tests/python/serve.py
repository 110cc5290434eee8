#!/usr/bin/env python3
"""Serve the contract's API until SIGINT or SIGTERM."""

import asyncio
import os

import contract
import harness


def main():
    parser = harness.flags(__doc__, service_name="shop")
    parser.add_argument("--schema-ttl", type=int, default=60, help="seconds that a schema lives on the bus")
    parser.add_argument("--max-stream-length", type=int, default=100_000, help="0: streams are never trimmed")
    parser.add_argument("--state-plugin", action="store_true", help="fire the events of internal.state")
    parser.add_argument("--ping-interval", type=int, default=60, help="of the state plugin, seconds")
    parser.add_argument("--metrics-plugin", action="store_true", help="fire the events of internal.metrics")
    args = parser.parse_args()
    bus = harness.open_bus(
        args,
        schema_ttl=args.schema_ttl,
        events={"max_stream_length": args.max_stream_length},
        plugins={
            "internal_state": {"enabled": args.state_plugin, "ping_interval": args.ping_interval},
            "internal_metrics": {"enabled": args.metrics_plugin},
        },
    )
    client = bus.client

    async def fire(event, arguments):
        return await client.fire_event(args.api, event, kwargs=arguments, options={})

    client.register_api(contract.shop(args.api, fire))

    @client.before_rpc_execution()
    async def before(*, rpc_message, **_):
        harness.report(call=rpc_message.procedure_name, id=rpc_message.id, kwargs=rpc_message.kwargs)

    @client.after_rpc_execution()
    async def after(*, rpc_message, result_message, **_):
        harness.report(answered=rpc_message.procedure_name, id=rpc_message.id, error=bool(result_message.error))

    async def ready():
        # A call sent from now on waits in its queue, should the first pop be still to come.
        await asyncio.sleep(0.05)
        harness.report(ready=True, api=args.api, pid=os.getpid())

    harness.run_until_stopped(bus, ready)


if __name__ == "__main__":
    main()
