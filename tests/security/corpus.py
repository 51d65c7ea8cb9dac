"""Bad inputs, each with the expected response. `SECRET` in them is replaced by a word that no output may repeat."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.security.serving import request

SECRET = "zecret0zecret0zecret0"
EVENTS, IMAGES, INCIDENTS = "/api/v1/events", "/api/v1/images", "/health/incidents"
JSON = "application/json"


@dataclass(frozen=True)
class Input:
    """The bytes of one connection, and the accepted statuses: `422`, `2xx`, `4xx`, or `refused`: 4xx or closed."""

    name: str
    expected: str
    parts: tuple[bytes, ...]
    # The client closes its side, although the request is incomplete.
    is_cut: bool = False

    def is_met_by(self, statuses: tuple[int, ...]) -> bool:
        """Return whether the responses are accepted: one response to one request, whatever the request contained."""
        right = self.expected.replace("refused", "4xx").split("|")
        if not statuses:
            return "refused" in self.expected
        status = str(statuses[0])
        return len(statuses) == 1 and (status in right or f"{status[0]}xx" in right)


def ask(
    name: str,
    expected: str,
    method: str,
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Input:
    """Return a request that an HTTP client could send. It carries the secret in a cookie and a header."""
    with_secret = {"Cookie": f"session={SECRET}", "X-Api-Key": SECRET} | dict(headers or {})
    return Input(name, expected, (request(method, target, with_secret, body),))


def post(
    name: str, expected: str, body: bytes | str, kind: str = JSON, method: str = "POST", to: str = EVENTS
) -> Input:
    """Return a request with this body."""
    sent = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    return ask(name, expected, method, to, {"Content-Type": kind} if kind else {}, sent)


def event(**raw: str) -> str:
    """Return an event's body; each field is given as JSON."""
    fields = {"title": f'"{SECRET}"', "date": '"2030-01-02"', "time": '"20:00"'} | raw
    return "{" + ",".join(f"{json.dumps(name)}: {value}" for name, value in fields.items() if value) + "}"


def text(length: int) -> str:
    """Return a JSON string of this length."""
    return json.dumps("x" * length)


NUMBERS = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "1e400": "1e400",
    "minus 1e400": "-1e400",
    "10**400": "1" + "0" * 400,
    "10**5000": "1" + "0" * 5000,
    "2**63": str(2**63),
    "2**64": str(2**64),
    "minus 2**63 - 1": str(-(2**63) - 1),
    "zero": "0",
    "minus one": "-1",
    "minus zero": "-0",
    "one and a half": "1.5",
    "1e-400": "1e-400",
    "leading zero": "01",
    "hexadecimal": "0x10",
    "plus": "+1",
}
# Values of a wrong type for every field of an event.
WRONG = {"object": "{}", "array": "[]", "true": "true", "nested": '{"a": ["SECRET"]}'.replace("SECRET", SECRET)}


def bodies() -> Iterator[Input]:
    """Yield JSON that is no event, and some that is, just inside a limit."""
    yield post("an event", "201", event())
    for name, number in NUMBERS.items():
        yield post(f"image_id {name}", "4xx", event(image_id=number))
        yield post(f"title {name}", "4xx", event(title=number))
        yield post(f"unknown field {name}", "4xx", event(unknown=number))
    for field in ("title", "description", "date", "time", "location", "image_id"):
        for name, value in WRONG.items():
            yield post(f"{field} is {name}", "422", event(**{field: value}))
    for field in ("title", "date", "time"):
        yield post(f"{field} is null", "422", event(**{field: "null"}))
        yield post(f"{field} is missing", "422", event(**{field: ""}))
    for name, value in {
        "NUL": r'"a\u0000b"',
        "high surrogate": r'"\ud800"',
        "low surrogate": r'"\udc00"',
        "swapped surrogates": r'"\udc00\ud800"',
        "raw control character": '"a\x01b"',
        "raw NUL": '"a\x00b"',
        "bad escape": r'"\x41"',
        "cut escape": r'"\u12',
        "bad UTF-8": '"\udcff\udcfe"',
        "overlong UTF-8": '"\udcc0\udcaf"',
        "UTF-8 of a surrogate": '"\udced\udca0\udc80"',
        "beyond Unicode": '"\udcf4\udc90\udc80\udc80"',
        "unclosed": '"a',
    }.items():
        for field in ("title", "description", "location"):
            yield post(f"{field} with {name}", "4xx", event(**{field: value}))
    for field, longest in (("title", 200), ("description", 10_000), ("location", 200)):
        yield post(f"{field} as long as can be", "201", event(**{field: text(longest)}))
        yield post(f"{field} one too long", "422", event(**{field: text(longest + 1)}))
        yield post(f"{field} of 900 KB", "422", event(**{field: text(900_000)}))
    yield post("title empty", "422", event(title='""'))
    yield post("title of blanks", "422", event(title='" \\t\\u00a0 "'))
    yield post("title of one character", "201", event(title='"x"'))
    yield post("title of emoji, as long as can be", "201", event(title=json.dumps("\U0001f600" * 200)))
    yield post("title that turns the text around", "201", event(title=json.dumps("\u202eabc")))
    yield post("title that is SQL", "201", event(title=json.dumps("'; DROP TABLE events; --")))
    yield from _dates()
    yield from _shapes()


def _dates() -> Iterator[Input]:
    for date in ("0001-01-01", "9999-12-31", "2024-02-29"):
        yield post(f"date {date}", "201", event(date=f'"{date}"'))
    for date in ("0000-01-01", "10000-01-01", "-0001-01-01", "2023-02-29", "2030-13-01", "2030-00-01", "2030-1-1"):
        yield post(f"date {date}", "422", event(date=f'"{date}"'))
    for date in (
        "",
        " ",
        "today",
        "2030-01-02T25:00:00",
        "\u0662\u0660\u0663\u0660-\u0660\u0661-\u0660\u0662",
        "2030-01-02\u0000",
        "99999999999999999999",
    ):
        yield post(f"date {date!a}", "422", event(date=json.dumps(date)))
    for time in ("00:00", "23:59:59.999999"):
        yield post(f"time {time}", "201", event(time=f'"{time}"'))
    for time in ("24:00", "23:60", "23:59:60", "20:00Z", "20:00+02:00", "", "noon", "20:00:00.0000001x", "-1:00"):
        yield post(f"time {time!a}", "422", event(time=f'"{time}"'))
    for value in ("86400", "-1", "1e400", "1e20", "NaN"):
        yield post(f"time is the number {value}", "422", event(time=value))
    for value in ("1e400", "1e20", "-1e20", "NaN", "0.5"):
        yield post(f"date is the number {value}", "422", event(date=value))


def _shapes() -> Iterator[Input]:
    deep = 100_000
    yield post("100,000 arrays", "4xx", "[" * deep)
    yield post("100,000 arrays, closed", "4xx", "[" * deep + "]" * deep)
    yield post("100,000 objects", "4xx", '{"a":' * deep)
    yield post("10,000 objects in a field", "4xx", event(title='{"a":' * 10_000 + "1" + "}" * 10_000))
    yield post("900 arrays in a field", "4xx", event(title="[" * 900 + "]" * 900))
    yield post("a field twice", "201", event()[:-1] + ', "title": "the last counts"}')
    yield post("a field twice, the last one wrong", "422", event()[:-1] + ', "title": 1}')
    yield post("a field named __proto__", "422", event(__proto__='{"admin": true}'))
    yield post("a field named constructor", "422", event(constructor='{"prototype": {}}'))
    yield post("a field that only we set", "422", event(id="1"))
    yield post("a version that only we set", "422", event(version="7"))
    yield post("a field with NUL in its name", "422", event(**{"a\x00b": "1"}))
    yield post("a field with the secret as its name", "422", event(**{SECRET: "1"}))
    yield post("10,000 unknown fields", "422", event(**{f"field{number}": "1" for number in range(10_000)}))
    for name, body in {
        "blanks": " \t\r\n ",
        "null": "null",
        "a string": f'"{SECRET}"',
        "a number": "1",
        "an array": "[]",
        "an array with an event": f"[{event()}]",
        "two events": event() + event(),
        "rubbish behind": event() + SECRET,
        "a comma too much": event()[:-1] + ",}",
        "a comment": "/* */" + event(),
        "single quotes": event().replace('"', "'"),
        "a form": f"title={SECRET}&date=2030-01-02&time=20:00",
        "XML": f'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;{SECRET}</a>',
        "NUL": "\x00",
        "only a brace": "{",
        "cut in the middle": event()[:20],
    }.items():
        yield post(f"the body is {name}", "422", body)
    yield post("the body is nothing", "422", "")
    yield post("the body begins with a byte order mark", "201", b"\xef\xbb\xbf" + event().encode())
    for charset in ("utf-16", "utf-32", "utf-7", "utf-16-le"):
        yield post(f"the body is {charset}", "4xx|2xx", event().encode(charset))
    yield post("the body is Latin-1", "4xx", b'{"title": "\xe4\xf6\xfc", "date": "2030-01-02", "time": "20:00"}')
    yield post("a patch of null", "422", "null", method="PATCH", to=f"{EVENTS}/1")
    yield post("a patch of nothing known", "422", f'{{"{SECRET}": 1}}', method="PATCH", to=f"{EVENTS}/1")
    yield post("a patch that takes the title away", "422", '{"title": null}', method="PATCH", to=f"{EVENTS}/1")
    for number in ("2**63", "10**400", "1e400", "NaN", "10**5000"):
        yield post(
            f"a patch of image_id {number}",
            "4xx",
            f'{{"image_id": {NUMBERS[number]}}}',
            method="PATCH",
            to=f"{EVENTS}/1",
        )
    for kind in (
        "",
        "text/plain",
        "text/html",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/octet-stream",
        "application/jsonp",
        "image/png",
        "json",
        "*/*",
        ";",
        "application/json/x",
        f"application/{SECRET}",
        "application/json\x00",
    ):
        yield post(f"an event labelled as {kind!a}", "4xx" if kind else "422|415|201", event(), kind)
    for kind in (
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/problem+json",
        "application/json;",
    ):
        yield post(f"an event labelled as {kind}", "201", event(), kind)
    yield post("JSON in an unknown charset", "201|4xx", event(), f"application/json; charset={SECRET}")
