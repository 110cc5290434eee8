#!/usr/bin/env python3
"""The authentication service: answers auth.check_password, owns auth.user_registered."""

from tutorial import harness, open_bus
from lightbus import Api, Event, Parameter


class AuthApi(Api):
    user_registered = Event([Parameter("username", str), Parameter("email", str)])

    class Meta:
        name = "auth"

    def check_password(self, username: str, password: str) -> bool:
        harness.report(call="check_password", username=username)
        return username == "admin" and password == "secret"


def main():
    bus, _ = open_bus("auth-service", __doc__)
    bus.client.register_api(AuthApi())

    async def ready():
        harness.report(ready=True)

    harness.run_until_stopped(bus, ready)


if __name__ == "__main__":
    main()
