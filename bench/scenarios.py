"""The scenarios: for each one, a recipe that makes any number of requests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.data import EVENTS, POOL_START, SEARCH_WORDS, png

ON_POSTGRESQL = ("limit", "control", "template", "ours")
ON_SQLITE = ("control-sqlite", "ours-sqlite")
# The number of rows that a turn changes in a cycle; the next cycle changes the next version. A cycle takes about a
# second at least, because SQLAlchemy's pool lets other requests overtake a waiting one for that long.
PATCHED_ROWS = 10_000

_BOUNDARY = "----bench-boundary-7MA4YWxkTrZu0gW"


@dataclass(frozen=True)
class Recipe:
    """Requests that differ in one value: `{}` in the path.

    The values are those in `values`, in turn, or `count` numbers from `first` on, in turn.
    The body is text in Latin-1, so that JSON and Lua can contain any byte.
    """

    method: str
    path: str
    values: Sequence[str] = ()
    first: int = 0
    count: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    # Send If-Match with the version of a row that every earlier cycle has changed: 1, then 2, ...
    if_match: bool = False

    def request(self, number: int) -> tuple[str, str, dict[str, str], bytes]:
        """Return the request with this number, from 0: method, target, headers, body."""
        value, headers = "", dict(self.headers)
        if self.values:
            value = self.values[number % len(self.values)]
        elif self.count:
            value = str(self.first + number % self.count)
        if self.if_match:
            headers["If-Match"] = f'"{number // self.count + 1}"'
        return self.method, self.path.replace("{}", value), headers, self.body.encode("latin-1")

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe from the result of `as_dict`."""
        return cls(**values)


@dataclass(frozen=True)
class Scenario:
    """One kind of request. `scale` is its number of requests in a turn, in relation to reading one row."""

    name: str
    title: str
    scale: float = 1
    apps: tuple[str, ...] = ON_POSTGRESQL
    # Rows to prepare for each request, or in total if requests change them in cycles.
    deletes: bool = False
    patches: bool = False
    writes: bool = False
    # Whether a quick run serves it too.
    quick: bool = True

    def rows_for(self, requests: int) -> int:
        """Return how many rows this number of requests needs."""
        if self.patches:
            return min(requests, PATCHED_ROWS)
        return requests if self.deletes else 0


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("health", "does nothing", scale=5, apps=("bare", *ON_POSTGRESQL)),
        Scenario("read_one", "read one", apps=(*ON_POSTGRESQL, *ON_SQLITE)),
        Scenario("list", "list 20 with total", scale=0.5),
        Scenario("list_cursor", "list 20 by cursor", scale=0.5, quick=False),
        Scenario("search", "search", scale=0.5, quick=False),
        Scenario("create", "create", writes=True),
        Scenario("patch", "patch with If-Match", writes=True, patches=True),
        Scenario("delete", "delete", writes=True, deletes=True, quick=False),
        Scenario("upload", "upload", scale=0.5, writes=True, quick=False),
        Scenario("contract", "create, asking images", writes=True, quick=False),
    )
}

_JSON = {"Content-Type": "application/json"}
_EVENT = {
    "title": "Concert in the park",
    "description": "Bring friends, come early, and stay for what happens afterwards.",
    "date": "2031-05-01",
    "time": "20:00:00",
    "location": "Berlin",
}
_CHANGES = {"title": "Concert in the hall", "location": "Lisbon"}


def recipe_for(scenario: Scenario, requests: int, cursors: Sequence[str] = ()) -> Recipe:
    """Return the recipe for `requests` requests of this scenario; `cursors` are an application's own."""
    events = "/api/v1/events"
    if scenario.deletes:
        return Recipe("DELETE", f"{events}/{{}}", first=POOL_START, count=max(1, requests))
    if scenario.patches:
        body, rows = json.dumps(_CHANGES), max(1, scenario.rows_for(requests))
        return Recipe("PATCH", f"{events}/{{}}", (), POOL_START, rows, _JSON, body, if_match=True)
    recipes = {
        "health": Recipe("GET", "/health/live"),
        # 997 and the number of rows have no common divisor, so the ids spread over the whole table without randomness.
        "read_one": Recipe("GET", f"{events}/{{}}", [str(number * 997 % EVENTS + 1) for number in range(1000)]),
        "list": Recipe("GET", f"{events}?limit=20&offset={{}}", [str(20 * number) for number in range(10)]),
        "list_cursor": Recipe("GET", f"{events}?limit=20&cursor={{}}", list(cursors)),
        "search": Recipe("GET", f"{events}?q={{}}&limit=20", SEARCH_WORDS),
        "create": Recipe("POST", events, headers=_JSON, body=json.dumps(_EVENT)),
        "contract": Recipe("POST", events, headers=_JSON, body=json.dumps(_EVENT | {"image_id": 1})),
        "upload": Recipe("POST", "/api/v1/images", headers=_MULTIPART, body=_form()),
    }
    return recipes[scenario.name]


_MULTIPART = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def _form() -> str:
    """Return a multipart body with a caption and a picture."""
    return (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="caption"\r\n\r\nA gradient\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="gradient.png"\r\n'
        f"Content-Type: image/png\r\n\r\n{png().decode('latin-1')}\r\n--{_BOUNDARY}--\r\n"
    )
