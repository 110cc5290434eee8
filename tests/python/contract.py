"""The API that the interoperability tests are about. README.md says the same in words."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple
from uuid import UUID

from lightbus import Api, Event, Parameter

VERSION = 3


class Size(Enum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Place(NamedTuple):
    street: str
    number: int
    country: str = "NL"


@dataclass
class Item:
    sku: str
    quantity: int
    price: Decimal


@dataclass
class Customer:
    id: UUID
    name: str
    born: date
    place: Place
    size: Size
    tags: List[str] = field(default_factory=list)
    ratings: Dict[str, float] = field(default_factory=dict)
    nickname: Optional[str] = None


class SoldOut(Exception):
    """A kind of error that no other program has heard of."""


FAILURES = {
    "value": ValueError,
    "key": KeyError,
    "zero": ZeroDivisionError,
    "runtime": RuntimeError,
    "custom": SoldOut,
}

EVENTS = {
    "order_placed": [
        Parameter("order_id", UUID),
        Parameter("placed_at", datetime),
        Parameter("items", List[Item]),
        Parameter("total", Decimal),
        Parameter("note", Optional[str], default=None),
    ],
    "stock_changed": [
        Parameter("sku", str),
        Parameter("left", int),
        Parameter("sizes", List[Size]),
        Parameter("thumbnail", bytes),
        Parameter("extra", dict),
    ],
    "tick": [],
}


def shop(name, fire=None):
    """The API, under any name. `fire(event, arguments)` is a coroutine that `announce` calls."""

    class Shop(Api):
        order_placed = Event(EVENTS["order_placed"])
        stock_changed = Event(EVENTS["stock_changed"])
        tick = Event(EVENTS["tick"])

        class Meta:
            version = VERSION

        Meta.name = name

        # JSON's own values

        def add(self, a: int, b: int) -> int:
            return a + b

        def join(self, words: List[str], separator: str = " ") -> str:
            return separator.join(words)

        def echo(self, value: Any) -> Any:
            return value

        def nothing(self) -> None:
            return None

        def defaults(self, a: int, b: int = 2, c: str = "three", d: Optional[int] = None) -> dict:
            return {"a": a, "b": b, "c": c, "d": d}

        # Values with a form of their own on the wire

        def shift(self, moment: datetime, days: int) -> datetime:
            return moment + timedelta(days=days)

        def next_day(self, day: date) -> date:
            return day + timedelta(days=1)

        def total(self, items: List[Item]) -> Decimal:
            return sum((item.price * item.quantity for item in items), Decimal(0))

        def customer(self, id: UUID) -> Customer:
            return Customer(
                id=id,
                name="Zoë ☃",
                born=date(1990, 2, 28),
                place=Place("Dam", 1),
                size=Size.MEDIUM,
                tags=["a", "b"],
                ratings={"chess": 1.5},
            )

        def reverse(self, data: bytes) -> bytes:
            return data[::-1]

        def larger(self, size: Size) -> Size:
            return {Size.SMALL: Size.MEDIUM}.get(size, Size.LARGE)

        def move(self, place: Place, number: int) -> Place:
            return place._replace(number=number)

        def swap(self, pair: Tuple[int, str]) -> Tuple[str, int]:
            return pair[1], pair[0]

        def unique(self, words: List[str]) -> Set[str]:
            return set(words)

        def maybe(self, moment: Optional[datetime] = None) -> Optional[datetime]:
            return moment

        def types(
            self,
            moment: datetime,
            day: date,
            amount: Decimal,
            id: UUID,
            data: bytes,
            size: Size,
            place: Place,
            items: List[Item],
            pair: Tuple[int, str],
            words: Set[str],
            maybe: Optional[datetime] = None,
        ) -> Dict[str, str]:
            arguments = {name: value for name, value in locals().items() if name != "self"}
            return {name: type(value).__name__ for name, value in arguments.items()}

        # Behaviour

        def fail(self, kind: str, message: str) -> None:
            raise FAILURES[kind](message)

        async def sleep(self, seconds: float) -> float:
            await asyncio.sleep(seconds)
            return seconds

        def block(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

        async def announce(self, event: str, arguments: dict) -> str:
            return (await fire(event, arguments)).id

    return Shop()
