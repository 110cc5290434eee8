#!/usr/bin/env python3
"""Ask the authentication service whether a password is right."""

from tutorial import harness, open_bus


def add_flags(parser):
    parser.add_argument("--username", default="admin")
    parser.add_argument("--password", default="secret")


async def check(bus, args):
    valid = await bus.auth.check_password.call_async(username=args.username, password=args.password)
    harness.report(result=valid)


def main():
    bus, args = open_bus("check-password", __doc__, add_flags)
    harness.run_once(bus, check(bus, args))


if __name__ == "__main__":
    main()
