#!/usr/bin/env python3
"""Tell the bus that a user has registered, as the authentication service would."""

from auth_service import AuthApi
from tutorial import harness, open_bus


def add_flags(parser):
    parser.add_argument("--username", default="admin")
    parser.add_argument("--email", default="admin@example.com")


async def register(bus, args):
    event = await bus.auth.user_registered.fire_async(username=args.username, email=args.email)
    harness.report(**harness.describe_event(event))


def main():
    bus, args = open_bus("auth-service", __doc__, add_flags)
    bus.client.register_api(AuthApi())
    harness.run_once(bus, register(bus, args))


if __name__ == "__main__":
    main()
