"""What is asked of the applications: for each scenario a recipe from which any number of requests can be made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.data import EVENTS, POOL_START, SEARCH_WORDS, png

ON_POSTGRESQL = ("limit", "control", "template", "ours")
ON_SQLITE = ("control-sqlite", "ours-sqlite")
# How many rows a turn that changes rows goes round; then it begins again with the next version. As many as take about a
# second at least: SQLAlchemy's pool lets a request that waits be overtaken for as long as that.
PATCHED_ROWS = 10_000

_BOUNDARY = "----bench-boundary-7MA4YWxkTrZu0gW"


@dataclass(frozen=True)
class Recipe:
    """Requests that differ in one value: `{}` in the path.

    The values are those listed in `values`, in turn, or the numbers from `first` on, `count` of them, in turn.
    The body is text in Latin-1, so that any byte can be written into JSON and Lua.
    """

    method: str
    path: str
    values: Sequence[str] = ()
    first: int = 0
    count: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    # Send If-Match with the version that a row has that was changed in every round before: 1, then 2, ...
    if_match: bool = False

    def request(self, number: int) -> tuple[str, str, dict[str, str], bytes]:
        """The request with this number, from 0: method, target, headers, body."""
        value, headers = "", dict(self.headers)
        if self.values:
            value = self.values[number % len(self.values)]
        elif self.count:
            value = str(self.first + number % self.count)
        if self.if_match:
            headers["If-Match"] = f'"{number // self.count + 1}"'
        return self.method, self.path.replace("{}", value), headers, self.body.encode("latin-1")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """What `as_dict` gave."""
        return cls(**values)


@dataclass(frozen=True)
class Scenario:
    """One kind of request. `scale` is how many requests a turn has in relation to reading one row."""

    name: str
    title: str
    scale: float = 1
    apps: tuple[str, ...] = ON_POSTGRESQL
    # Rows that must be prepared for each request, or in all where they are gone round.
    deletes: bool = False
    patches: bool = False
    writes: bool = False
    # Whether a quick run serves it, too.
    quick: bool = True

    def rows_for(self, requests: int) -> int:
        """How many rows must be there for so many requests."""
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
    """How `requests` requests of this scenario are made; `cursors` are an application's own."""
    events = "/api/v1/events"
    if scenario.deletes:
        return Recipe("DELETE", f"{events}/{{}}", first=POOL_START, count=max(1, requests))
    if scenario.patches:
        body, rows = json.dumps(_CHANGES), max(1, scenario.rows_for(requests))
        return Recipe("PATCH", f"{events}/{{}}", (), POOL_START, rows, _JSON, body, if_match=True)
    recipes = {
        "health": Recipe("GET", "/health/live"),
        # 997 has no divisor in common with the number of rows: all over the table, without chance.
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
    """A multipart body with a caption and a picture."""
    return (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="caption"\r\n\r\nA gradient\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="gradient.png"\r\n'
        f"Content-Type: image/png\r\n\r\n{png().decode('latin-1')}\r\n--{_BOUNDARY}--\r\n"
    )
