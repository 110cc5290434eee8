#!/usr/bin/env python3
"""Tell what Python sees of the schemas on the bus."""

import asyncio
import json
import time

import harness


async def load(bus, args):
    """All schemas, once the one of --api is among them or the wait is over."""
    deadline = time.monotonic() + args.wait
    while True:
        await bus.client.schema.load_from_bus()
        schemas = bus.client.schema.remote_schemas
        if args.api in schemas or time.monotonic() >= deadline:
            return schemas
        await asyncio.sleep(0.05)


def validate(bus, args):
    check = bus.client.schema.validate_response if args.response else bus.client.schema.validate_parameters
    try:
        check(args.api, args.name, args.validate)
    except Exception as error:  # pylint: disable=broad-except
        harness.report(valid=False, error=type(error).__name__, message=str(error))
        return harness.FAILED
    harness.report(valid=True)
    return harness.OK


async def tell(bus, args):
    schemas = await load(bus, args)
    if args.all:
        for api in sorted(schemas):
            harness.report(api=api, schema=schemas[api])
        return harness.OK
    if args.api not in schemas:
        harness.report(error="SchemaNotFound", api=args.api)
        return harness.FAILED
    if args.name:
        return validate(bus, args)
    harness.report(api=args.api, schema=schemas[args.api])
    return harness.OK


def main():
    parser = harness.flags(__doc__, service_name="schemas")
    parser.add_argument("--all", action="store_true", help="every API's, not only the one of --api")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for the schema of --api")
    parser.add_argument("--name", help="procedure or event whose schema is to check --validate")
    parser.add_argument("--validate", type=json.loads, default={}, help="JSON, with --name")
    parser.add_argument("--response", action="store_true", help="--validate is a result, not arguments")
    args = parser.parse_args()
    bus = harness.open_bus(args)
    harness.run_once(bus, tell(bus, args))


if __name__ == "__main__":
    main()
