"""Bad paths, queries, headers and framing."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator

from tests.security.corpus import EVENTS, IMAGES, INCIDENTS, JSON, NUMBERS, SECRET, Input, ask, event, post
from tests.security.serving import request


def queries() -> Iterator[Input]:
    """Yield invalid queries of a list, and some that are just valid."""
    for name, number in NUMBERS.items():
        escaped = number.replace("+", "%2B")
        yield ask(
            f"limit {name}",
            "422" if name not in {"leading zero", "plus"} else "200|422",
            "GET",
            f"{EVENTS}?limit={escaped}",
        )
        good = "200" if name in {"zero", "minus zero"} else "200|422" if name in {"leading zero", "plus"} else "422"
        yield ask(f"offset {name}", good, "GET", f"{IMAGES}?offset={escaped}")
    for limit, expected in ((1, "200"), (100, "200"), (101, "422"), (0, "422")):
        yield ask(f"limit is {limit}", expected, "GET", f"{EVENTS}?limit={limit}")
    yield ask("offset as far as can be", "200", "GET", f"{EVENTS}?offset=1000000")
    yield ask("offset one too far", "422", "GET", f"{EVENTS}?offset=1000001")
    for name, value in {
        "NUL": "%00",
        "surrogate": "%ED%A0%80",
        "bad UTF-8": "%FF%FE",
        "overlong UTF-8": "%C0%AF",
        "bad escape": "%ZZ",
        "cut escape": "%2",
        "SQL": "'%20OR%201=1--",
        "tsquery": "%26%20%7C%20!%20(%20:*%20%3C-%3E",
        "LIKE": "%25_%5C",
        "a combining mark": "%CC%81",
        "digits of elsewhere": "%D9%A2",
        "1 of it": "%F0%9F%98%80",
    }.items():
        for name_of, path in (("q", EVENTS), ("location", EVENTS), ("component", INCIDENTS)):
            yield ask(f"{name_of} with {name}", "200|422", "GET", f"{path}?{name_of}={value}{SECRET}")
    yield ask("q as long as can be", "200", "GET", f"{EVENTS}?q={'x' * 100}")
    yield ask("q of fifty words", "200", "GET", f"{EVENTS}?q={'+'.join('ab'[n % 2] for n in range(50))}")
    yield ask("q one too long", "422", "GET", f"{EVENTS}?q={'x' * 101}")
    for name, query in {
        "an unknown order": "sort=SECRET",
        "an order that is SQL": "sort=date;DROP",
        "a date that is none": "date_from=2023-02-29",
        "a date before all": "date_from=0000-12-31",
        "a date after all": "date_to=10000-01-01",
        "a moment as a date": "date_from=1e400",
        "dates the wrong way round": "date_from=2030-01-02&date_to=2030-01-01",
        "upcoming perhaps": "upcoming=perhaps",
        "limit twice, wrong": "limit=1&limit=SECRET",
        "limit empty": "limit=",
        "limit in words": "limit=ten",
        "limit of 5,000 digits": "limit=" + "9" * 5000,
        "cursor and offset": "cursor=&offset=1",
        "cursor too long": "cursor=" + "a" * 1001,
    }.items():
        yield ask(name, "422", "GET", f"{EVENTS}?{query.replace('SECRET', SECRET)}")
    for name, query in {
        "the first day": "date_from=0001-01-01&date_to=9999-12-31",
        "an unknown parameter": f"{SECRET}={SECRET}",
        "limit[]": "limit[]=5",
        "a question mark": "??&&==",
        "1,500 parameters": "&".join(f"a{number}=1" for number in range(1500)),
    }.items():
        yield ask(name, "200", "GET", f"{EVENTS}?{query}")
    yield from _cursors()


def _cursors() -> Iterator[Input]:
    signature = "date,time,id"
    for name, cursor in {
        "no base64": f"!{SECRET}",
        "not of a list": json.dumps({"a": 1}),
        "of nothing": "[]",
        "of a number": "7",
        "of null": "null",
        "of another order": '["title,id","a",1]',
        "too short": json.dumps([signature, "2030-01-01", "20:00"]),
        "too long": json.dumps([signature, "2030-01-01", "20:00", 1, 2]),
        "with a huge id": json.dumps([signature, "2030-01-01", "20:00", 2**63]),
        "with an enormous id": json.dumps([signature, "2030-01-01", "20:00", 10**400]),
        "with a very small id": json.dumps([signature, "2030-01-01", "20:00", -(2**63) - 1]),
        "with a fraction for an id": json.dumps([signature, "2030-01-01", "20:00", 1.5]),
        "with NaN": json.dumps([signature, "2030-01-01", "20:00", float("nan")]),
        "with a date that is none": json.dumps([signature, "2023-02-29", "20:00", 1]),
        "with nested arrays": "[" * 700 + "]" * 40,
    }.items():
        encoded = urlsafe_b64encode(cursor.encode()).decode().rstrip("=") if name != "no base64" else cursor
        yield ask(f"a cursor {name}", "422", "GET", f"{EVENTS}?cursor={encoded}")
    for name, signature, value in (
        ("with NUL", "title,id", "a\x00b"),
        ("with a surrogate", "title,id", "\ud800"),
        ("with the first moment", "created_at,id", "0001-01-01T00:00:00+14:00"),
        ("with the last moment", "created_at,id", "9999-12-31T23:59:59-14:00"),
        ("with a moment without a zone", "created_at,id", "2030-01-01T00:00:00"),
        ("with a moment that is a number", "created_at,id", 1e300),
    ):
        encoded = urlsafe_b64encode(json.dumps([signature, value, 1]).encode()).decode().rstrip("=")
        yield ask(f"a cursor {name}", "200|422", "GET", f"{EVENTS}?sort={signature.split(',')[0]}&cursor={encoded}")


def paths() -> Iterator[Input]:
    """Yield paths that no route has."""
    for name, number in NUMBERS.items():
        expected = "2xx|404|422" if name in {"leading zero", "plus"} else "422"
        for method, path in (("GET", EVENTS), ("DELETE", IMAGES)):
            yield ask(f"{method} of id {name}", expected, method, f"{path}/{number}")
    yield ask("an id behind a blank", "200|422", "GET", f"{EVENTS}/%201")
    yield ask("the largest id", "404", "GET", f"{EVENTS}/{2**53 - 1}")
    yield ask("an id that JSON cannot tell from the next", "422", "GET", f"{EVENTS}/{2**53}")
    for name, path in {
        "up": "/api/v1/../../etc/passwd",
        "up, encoded": "/api/v1/%2e%2e/%2e%2e/etc/passwd",
        "up, encoded twice": "/api/v1/%252e%252e/%252e%252e/etc/passwd",
        "up from the assets": "/docs/assets/../../../../../../etc/passwd",
        "up from the assets, encoded": "/docs/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "up from the assets, slashes encoded": "/docs/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "an absolute asset": "/docs/assets//etc/passwd",
        "an asset with NUL": "/docs/assets/%00",
        "an asset with a long name": "/docs/assets/" + "a" * 300,
        "an asset of bad UTF-8": "/docs/assets/%FF",
        "NUL": f"{EVENTS}/1%00",
        "NUL before": f"{EVENTS}%00/1",
        "two slashes": f"/{EVENTS}/1",
        "two slashes inside": f"{EVENTS}//1",
        "an encoded slash": f"{EVENTS}%2f1/x",
        "a backslash": f"{EVENTS}\\1",
        "an encoded backslash": f"{EVENTS}%5c1",
        "a parameter": f"{EVENTS};a=b/1",
        "overlong UTF-8": f"{EVENTS}/%c0%ae%c0%ae/1",
        "bad UTF-8": f"{EVENTS}/%ff",
        "a surrogate": f"{EVENTS}/%ed%a0%80",
        "a bad escape": f"{EVENTS}/%zz",
        "a cut escape": f"{EVENTS}/%",
        "digits of elsewhere": f"{EVENTS}/%D9%A1",
        "a line end": f"{EVENTS}/1%0d%0aSet-Cookie:%20a=b",
        "another case": "/API/V1/EVENTS/1",
        "another version": "/api/v0/events/1",
        "the code": "/modules/events/models.py",
        "the settings": "/env_files/.env",
        "git": "/.git/config",
        "60,000 characters": f"{EVENTS}/{'a' * 60_000}",
        "10,000 segments": "/a" * 10_000,
        "a template": f"{EVENTS}/{{event_id}}",
        "a template of ours": f"{EVENTS}/${{jndi:ldap://x}}",
    }.items():
        yield ask(f"the path is {name}", "refused", "GET", f"{path}?s={SECRET}")
    for where in (f"{EVENTS}/", f"{IMAGES}/", "/health/live/", "//evil.example/", "/%2f%2fevil.example/"):
        yield ask(f"a slash too much: {where}", "4xx|307", "GET", where)
    yield Input("a path with a raw byte", "refused", (request("GET", f"{EVENTS}/".encode() + b"\xff\xfe"),))
    yield Input("a path with a raw NUL", "refused", (request("GET", f"{EVENTS}/".encode() + b"\x00"),))
    yield Input("a path with a raw blank", "refused", (request("GET", f"{EVENTS}/1 {SECRET}"),))


def methods() -> Iterator[Input]:
    """Yield methods that the path does not support, or that do not exist."""
    for method in ("TRACE", "CONNECT", "PUT", "DELETE", "PROPFIND", "PATCH", "MKCOL", "LINK", "PURGE"):
        yield ask(f"{method} of a list", "refused", method, EVENTS)
    for method in ("get", "Get", "X" * 100, "GÉT", "G ET", "", "GET\x00", "HTTP/1.1", f"{SECRET}"):
        yield Input(f"the method {method!a}", "refused", (request(method, EVENTS, {"Cookie": SECRET}),))
    yield post("an override of the method", "201", event())
    yield ask("an override of the method by header", "200", "GET", EVENTS, {"X-HTTP-Method-Override": "DELETE"})
    yield ask("a body on GET", "200", "GET", EVENTS, {"Content-Type": JSON}, event().encode())
    yield ask("a body on DELETE", "404", "DELETE", f"{EVENTS}/987654", {"Content-Type": JSON}, event().encode())
    yield ask("a body where no route reads one", "4xx", "POST", "/nowhere", {"Content-Type": JSON}, event().encode())
