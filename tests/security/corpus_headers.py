"""Headers and framing that no ordinary client sends."""

from collections.abc import Iterator

from tests.security.corpus import EVENTS, JSON, SECRET, Input, ask, event
from tests.security.serving import request

_GET = f"GET {EVENTS} HTTP/1.1\r\n".encode()
_LAST = b"Connection: close\r\n\r\n"


def headers() -> Iterator[Input]:
    """Yield headers with invalid values."""
    tags = (
        "",
        "*",
        '"',
        '""',
        '"x"',
        "x",
        'W/"1"',
        '"1',
        '"\x00"',
        '"' + "9" * 5000 + '"',
        "\u0661",
        '"-1"',
        '"1",' * 900,
    )
    for tag in (*tags, f'"{SECRET}"', '"9999999999"', '"\u0663"', "\udcff"):
        expected = "422" if tag.count(",") > 20 else "200|304|400"
        yield ask(f"If-None-Match: {tag[:20]!a}", expected, "GET", f"{EVENTS}/1", {"If-None-Match": tag})
        change = {"If-Match": tag, "Content-Type": JSON}
        yield ask(f"If-Match: {tag[:20]!a}", "200|412|400|422", "PATCH", f"{EVENTS}/1", change, b'{"location": "x"}')
        keyed = {"Idempotency-Key": tag, "Content-Type": JSON}
        yield ask(f"Idempotency-Key: {tag[:20]!a}", "201|4xx", "POST", EVENTS, keyed, event().encode())
    for value in (
        "bytes=-",
        "bytes=5-1",
        "bytes=99999999999999999999-",
        "bytes=-99999999999999999999",
        f"bytes={2**63}-",
        "bytes=0-0,1-1," * 200,
        f"bytes={SECRET}",
        "chapters=1-2",
        "bytes=\u0660-\u0661",
        "bytes=0-\x00",
        "bytes=" + "0" * 5000 + "-",
    ):
        yield ask(f"Range: {value[:30]!a}", "200|206|416|400", "GET", "/api/v1/images/2/content", {"Range": value})
    for name, value in {
        "Accept": "application/xml;q=banana",
        "Accept-Encoding": "gzip;q=nan, br;q=-1, " + "x," * 1000,
        "Accept-Language": f"{SECRET};q=1e400",
        "Accept-Charset": "utf-7",
        "Authorization": f"Basic {SECRET}",
        "Proxy-Authorization": f"Bearer {SECRET}",
        "Cookie": f"={SECRET};;;=;{SECRET}" + ";a=b" * 1000,
        "X-Request-ID": f"{SECRET} {SECRET}",
        "X-Request-Id": "a" * 129,
        "traceparent": f"00-{SECRET}-1-1",
        "tracestate": f"a={SECRET}," * 100,
        "baggage": f"{SECRET}={SECRET}",
        "Idempotency-Key": f"{SECRET}" * 50,
        "X-Forwarded-For": f"{SECRET}, 999.999.999.999, ::::",
        "X-Forwarded-Proto": f"{SECRET}",
        "X-Forwarded-Host": f"{SECRET}.example",
        "X-Forwarded-Prefix": f"/{SECRET}",
        "X-Original-URL": f"/{SECRET}",
        "X-Rewrite-URL": "/health/live",
        "Forwarded": f'for="{SECRET};proto=',
        "Expect": "200-maybe",
        "Upgrade": "h2c",
        "Origin": f"https://{SECRET}\udcff",
        "Referer": f"javascript:{SECRET}",
        "Date": "Thu, 99 Jan 99999 99:99:99",
        "If-Modified-Since": "yesterday",
        "Content-Encoding": "gzip",
        "Content-Length-": "5",
        "Max-Forwards": "-1",
        "TE": "trailers, deflate;q=nan",
        "Via": "x," * 500,
        "X-Large": SECRET * 400,
        "X-Json": f'{{"a": "{SECRET}"}}',
        "X-Format": "%s%n%x {0} ${jndi:ldap://x}",
    }.items():
        yield ask(f"{name}: {value[:20]!a}", "200|4xx", "GET", EVENTS, {name: value})
    for host in (
        "",
        "a b",
        "[::1",
        "[zzz]:1",
        "a:b:c",
        "localhost:99999999",
        "a@b",
        "..",
        f"{SECRET}.example",
        "x" * 300,
        "ü",
    ):
        for what, path in (("an event", f"{EVENTS}/1"), ("a slash too much", f"{EVENTS}/")):
            line = request("GET", path, {"Cookie": SECRET}, host=host)
            yield Input(f"Host: {host[:20]!a} for {what}", "200|307|4xx", (line,))
    for host in ("[", "a b", "\x00"):
        head = {"Content-Type": JSON, "Cookie": SECRET}
        line = request("POST", EVENTS, head, event().encode(), host=host)
        yield Input(f"an event for the host {host!a}", "201|4xx", (line,))


def _raw(name: str, expected: str, *lines: bytes, is_cut: bool = False) -> Input:
    parts = b"".join(line + b"\r\n" for line in lines).replace(b"SECRET", SECRET.encode())
    return Input(name, expected, (_GET + parts + _LAST,), is_cut)


def framing() -> Iterator[Input]:
    """Yield framings of a request that a proxy may read in another way."""
    host = b"Host: localhost"
    yield _raw("no Host", "200|400")
    yield _raw("Host twice", "200|400", host, b"Host: SECRET.example")
    yield _raw("Authorization twice", "200|4xx", host, b"Authorization: Bearer SECRET", b"Authorization: Bearer x")
    yield _raw("a folded header", "refused", host, b"X-A: a", b" SECRET")
    yield _raw("a blank before the colon", "refused", host, b"X-A : SECRET")
    yield _raw("no colon", "refused", host, b"SECRET")
    yield _raw("no name", "refused", host, b": SECRET")
    yield _raw("a blank before the name", "refused", host, b"X-A: a", b"\tX-B: SECRET")
    yield _raw("NUL in a value", "refused", host, b"X-A: a\x00SECRET")
    yield _raw("NUL in a name", "refused", host, b"X-\x00A: SECRET")
    yield _raw("a carriage return in a value", "refused", host, b"X-A: a\rX-B: SECRET")
    yield _raw("a line feed alone", "200|4xx", host, b"X-A: a\nX-B: SECRET")
    yield _raw("raw bytes in a value", "200|400", host, b"X-A: \xff\xfe\x80SECRET")
    yield _raw("an umlaut in a name", "refused", host, "X-Ä: SECRET".encode())
    yield _raw("quotes in a name", "refused", host, b'X-"A": SECRET')
    yield _raw("500 headers", "200|4xx", host, *(b"X-%d: SECRET" % number for number in range(500)))
    yield _raw("a value of 60 KB", "200|4xx", host, b"X-A: " + b"a" * 60_000)
    yield _raw("a name of 60 KB", "refused|200", host, b"X" * 60_000 + b": SECRET")
    for length in (b"-1", b"+1", b"1e3", b"0x10", b"abc", b"", b"9" * 30, b"1 1", b"1,1", b" 1\x00", "\u0661".encode()):
        yield _raw(f"Content-Length: {length!a}", "refused", host, b"Content-Length: " + length, is_cut=True)
    yield _raw("Content-Length twice", "refused", host, b"Content-Length: 0", b"Content-Length: 5", is_cut=True)
    body = event().encode()
    for name, coding in {
        "chunked and a length": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        "a length and chunked": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        "chunked twice": b"Transfer-Encoding: chunked, chunked",
        "chunked in the wrong place": b"Transfer-Encoding: chunked, identity",
        "identity": b"Transfer-Encoding: identity",
        "unknown": b"Transfer-Encoding: SECRET".replace(b"SECRET", SECRET.encode()),
        "a vertical tab": b"Transfer-Encoding: \x0bchunked",
        "a blank before the colon": b"Transfer-Encoding : chunked",
        "quoted": b'Transfer-Encoding: "chunked"',
        "folded": b"Transfer-Encoding:\r\n chunked",
        "a second one": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        "an unknown one before chunked": b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "compressed, then chunked": b"Transfer-Encoding: gzip, chunked",
    }.items():
        # An event that would be created if the coding were mistaken for a known one.
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n".encode()
        smuggled = request("GET", f"{EVENTS}/1")
        yield Input(f"transfer coding: {name}", "refused", (head + coding + b"\r\n\r\n" + chunked + smuggled,))
    for name, chunk in {
        "no size": b"x\r\n",
        "a negative size": b"-1\r\n",
        "an enormous size": b"f" * 30 + b"\r\n",
        "an underscore in the size": b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
        "a wrong size": b"2\r\nabcdef\r\n0\r\n\r\n",
        "100 KB of extension": b"1;" + b"a" * 100_000 + b"\r\nx\r\n0\r\n\r\n",
        "a forbidden trailer": b"2\r\n{}\r\n0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n",
        "no end": b"2\r\n{}\r\n",
    }.items():
        head = b"Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + _LAST
        line = f"POST {EVENTS} HTTP/1.1\r\n".encode()
        yield Input(f"chunks: {name}", "refused", (line + head + chunk,), is_cut=True)
    yield Input(
        "a body cut short", "refused", (request("POST", EVENTS, {"Content-Type": JSON}, body)[:-5],), is_cut=True
    )
    for name, line in {
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30),
        "HTTP/3.7": b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
        "HTTP/1.10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        "HTTP/x": b"GET / HTTP/x\r\nHost: a\r\n\r\n",
        "another protocol": b"GET / FTP/1.1\r\nHost: a\r\n\r\n",
        "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
        "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "a proxy's greeting": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + request("GET", "/health/live"),
        "NUL bytes": bytes(5000),
        "all bytes": bytes(range(256)) * 10,
        "lines of nothing, then rubbish": b"\r\n" * 50 + b"rubbish\r\n\r\n",
        "a name without a scheme": request("GET", "evil.example:80"),
        "a star": request("GET", "*"),
        "no target": request("GET", ""),
        "a tab": b"GET\t/health/live\tHTTP/1.1\r\nHost: a\r\n\r\n",
    }.items():
        yield Input(f"the request line is {name}", "refused", (line,), is_cut=True)
    # It is read as HTTP/1.0 without headers, which is harmless: it carries no body.
    yield Input("the request line is HTTP/0.9", "200|refused", (b"GET /health/live\r\n\r\n",), is_cut=True)
    yield ask("an absolute target", "200|4xx", "GET", f"http://{SECRET}.example{EVENTS}")
    yield ask("an absolute target with a user", "200|4xx", "GET", f"http://u:{SECRET}@evil.example/health/live")
    yield ask("a target that is a file", "refused", "GET", "file:///etc/passwd")
