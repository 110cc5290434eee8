"""What all programs here share: flags, the bus they describe, JSON lines on stdout, running until stopped."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys

OK, FAILED, TIMED_OUT, DIED = 0, 1, 3, 9


def report(**fields):
    """One happening: one JSON line, flushed, so that a reader of the pipe sees it now."""
    line = json.dumps(fields, default=lambda value: {"type": type(value).__name__, "repr": repr(value)})
    # A single write: lines of several threads do not mix.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def flags(description, service_name):
    """A parser with the flags that every program takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument_group("bus").add_argument
    add("--redis-url", required=True, help="the broker, for instance redis://127.0.0.1:6379/0")
    add("--api", default="kit.shop", help="name of the API")
    add("--service-name", default=service_name)
    add("--process-name", default=f"{service_name}-{os.getpid()}")
    add("--stream-use", choices=("per_api", "per_event"), default="per_api")
    add("--rpc-timeout", type=int, default=5, help="whole seconds, of the API and of its transports")
    add("--no-validate", action="store_true", help="check nothing against schemas, neither way")
    add("--strict", action="store_true", help="strict_validation: no schema is an error")
    add("--no-cast", action="store_true", help="cast_values: false")
    add("--config", help="a lightbus.yaml, instead of a configuration made of these flags")
    add("--log-level", default="warning", help="of lightbus, on stderr")
    return parser


def configuration(args, *, events=None, schema_ttl=60, plugins=None):
    """The content of a lightbus.yaml that says what the flags say."""

    def redis(**options):
        return {"redis": {"url": args.redis_url, **options}}

    return {
        # Names are templates to Lightbus; here they are meant literally.
        "service_name": args.service_name.replace("{", "{{").replace("}", "}}"),
        "process_name": args.process_name.replace("{", "{{").replace("}", "}}"),
        "bus": {"schema": {"ttl": schema_ttl, "transport": redis()}},
        "plugins": plugins or {},
        "apis": {
            "default": {
                "rpc_timeout": args.rpc_timeout,
                "validate": not args.no_validate,
                "strict_validation": args.strict,
                "cast_values": not args.no_cast,
                "rpc_transport": redis(rpc_timeout=args.rpc_timeout),
                "result_transport": redis(rpc_timeout=args.rpc_timeout),
                "event_transport": redis(stream_use=args.stream_use, **(events or {})),
            }
        },
    }


def open_bus(args, **options):
    """The bus that the flags describe. Nothing is connected yet."""
    import lightbus

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("lightbus").setLevel(args.log_level.upper())
    if args.config:
        return lightbus.create(
            config_file=args.config, service_name=args.service_name, process_name=args.process_name
        )
    return lightbus.create(config=configuration(args, **options))


def loop():
    """The event loop that Lightbus has made for this thread."""
    return asyncio.get_event_loop()


def run_once(bus, work):
    """Run the coroutine `work`, close the bus, and end the process with what `work` returned."""

    async def main():
        try:
            return await work
        finally:
            await bus.client.close_async()

    sys.exit(loop().run_until_complete(main()) or OK)


def run_until_stopped(bus, on_ready, summary=dict):
    """Be a worker until a signal or `request_shutdown()`, and end the process.

    `on_ready` is awaited once the worker is under way; `summary()` adds to the last line.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        loop().add_signal_handler(number, bus.client.request_shutdown)
    tasks = []

    async def start(**_):
        # In the background: the worker waits for this hook to return.
        tasks.append(asyncio.ensure_future(guarded(on_ready)))

    bus.client.on_start(start)
    code = bus.client.run_forever()
    report(stopped=True, code=code, **summary())
    sys.exit(code)


async def guarded(work):
    """A failure while getting ready is a failure of the program, not a line in a log."""
    try:
        await work()
    except Exception as error:  # pylint: disable=broad-except
        report(error=type(error).__name__, message=str(error))
        os._exit(FAILED)


async def until_consuming(args, streams, group, seconds=30):
    """Return when this process is a consumer of `group` on all `streams`: no later event is missed."""
    from lightbus_vendored import aioredis

    redis = await aioredis.create_redis(args.redis_url)
    try:
        for stream in streams:
            while not await is_consumer(redis, stream, group, args.process_name):
                seconds -= 0.02
                if seconds < 0:
                    raise TimeoutError(f"no consumer {args.process_name} of {group} on {stream}")
                await asyncio.sleep(0.02)
    finally:
        redis.close()
        await redis.wait_closed()


async def is_consumer(redis, stream, group, name):
    from lightbus_vendored.aioredis.errors import ReplyError

    try:
        consumers = await redis.execute("XINFO", "CONSUMERS", stream, group)
    except ReplyError:  # neither stream nor group yet
        return False
    # Each is a flat list of keys and values.
    return any(dict(zip(c[::2], c[1::2]))[b"name"] == name.encode() for c in consumers)


def json_lines(path):
    """The objects of a file with one JSON text a line; `-` is stdin."""
    with sys.stdin if path == "-" else open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file if line.strip()]


def describe_event(message):
    """What every program prints of an event."""
    return dict(
        event=message.event_name,
        api=message.api_name,
        id=message.id,
        native_id=message.native_id,
        version=message.version,
        kwargs=message.kwargs,
    )
