"""One request is traced through two processes; a failing collector costs requests nothing."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kernel.ext.telemetry.tracing import Tracing
from kernel.settings import ApplicationSettings, SettingsError
from tests.core.project import write_project
from tests.faults.harness import free_port
from tests.messaging.shop import FILES, write_shop
from tests.process import Process

_TRACE_ID, _CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_TWO_SIDES = {
    "shop/contract.py": FILES["shop/contract.py"]
    + """
from kernel import Contract

class Shop(Contract):
    async def place(self, number: int) -> None: raise NotImplementedError
""",
    "shop/service.py": """
import structlog
from kernel.ext.messaging import publish
from modules.shop.contract import OrderPlaced, Shop
from modules.shop.models import Order

class Orders(Shop):
    def __init__(self, session):
        self.session = session
    async def place(self, number):
        self.session.add(Order(number=number))
        await self.session.flush()
        structlog.get_logger("shop").info("placed", api_token="sesame")
        await publish(OrderPlaced(number=number, customer="a secret name"))
""",
    "shop/module.py": """
from kernel import Module
from modules.shop.contract import Shop
from modules.shop.service import Orders
module = Module(owner="team", provides={Shop: Orders})
""",
    "front/module.py": 'from kernel import Module\nmodule = Module(owner="team", depends_on={"shop"})\n',
    "front/router.py": """
from typing import Annotated
from fastapi import APIRouter
from kernel import use
from modules.shop.contract import Shop
router = APIRouter()

@router.post("/orders/{number}", status_code=201)
async def order(number: int, shop: Annotated[Shop, use(Shop)]) -> int:
    await shop.place(number)
    return number
""",
}


@dataclass
class Collector:
    """A receiver of spans like an OpenTelemetry collector, which may also not answer."""

    hangs: bool = False
    spans: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Event = field(default_factory=Event)
    url: str = ""

    def take(self, body: bytes) -> None:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {one.key: one.value.string_value for one in of_resource.resource.attributes}["service.name"]
            for span in (span for scope in of_resource.scope_spans for span in scope.spans):
                self.spans[span.span_id.hex()] = {
                    "name": span.name,
                    "service": service,
                    "trace": span.trace_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "said": str(span),
                }

    def way_to(self, name: str) -> list[str]:
        """Return the names of the span and of those above it, from the outermost."""
        way: list[str] = []
        found = next((one for one in self.spans.values() if one["name"] == name), None)
        while found is not None:
            way.insert(0, f"{found['service']}: {found['name']}")
            found = self.spans.get(found["parent"])
        return way


@contextmanager
def collector(*, hangs: bool = False) -> Iterator[Collector]:
    """Provide a real receiver of OTLP over HTTP on the loopback interface."""
    took, over = Collector(hangs), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            took.asked.set()
            if took.hangs:
                over.wait()
                return
            took.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        took.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield took
        finally:
            over.set()
            server.shutdown()


def _until_ready(port: int, log: Path) -> None:
    ends_at = time.monotonic() + 60
    while True:
        try:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                return
        except OSError:
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.05)


def _post(url: str, **headers: str) -> float:
    """Send a request, and return its duration in seconds."""
    began_at = time.monotonic()
    request = urllib.request.Request(url, method="POST", headers=headers)  # noqa: S310  # our own server
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        assert answer.status == 201
    return time.monotonic() - began_at


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_one_request_is_followed_through_a_contract_call_and_a_message_in_two_processes(
    tmp_path: Path, empty_url: str
) -> None:
    write_shop(tmp_path, _TWO_SIDES)
    ports = free_port(), free_port()
    logs = tmp_path / "front.log", tmp_path / "shop.log"
    with collector() as took:
        variables = {
            "ENVIRONMENT": "local", "DATABASE_URL": empty_url, "INTERNAL_SECRET": "0123456789abcdef0123456789abcdef",
            "LOG_FORMAT": "json", "SERVER_RELOAD": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": took.url,
        }  # fmt: skip
        serve = "serve", "--host=127.0.0.1"
        shop = Process(
            tmp_path, logs[1], variables | {"OTEL_SERVICE_NAME": "shop"},
            *serve, f"--port={ports[1]}", "--modules=shop,mail",
        )  # fmt: skip
        _until_ready(ports[1], logs[1])
        front = Process(
            tmp_path, logs[0],
            variables | {"OTEL_SERVICE_NAME": "front", "SHOP_URL": f"http://127.0.0.1:{ports[1]}"},
            *serve, f"--port={ports[0]}", "--modules=front",
        )  # fmt: skip
        _until_ready(ports[0], logs[0])
        _post(f"http://127.0.0.1:{ports[0]}/api/v1/front/orders/7?number=8", traceparent=f"00-{_TRACE_ID}-{_CALLER}-01")
        ends_at = time.monotonic() + 30
        while not any(one["event"] == "message delivered" for one in _lines(logs[1])):
            assert time.monotonic() < ends_at, logs[1].read_text()
            time.sleep(0.05)
        front.stop()
        shop.stop()  # The remaining spans are sent at the end.

    request = ["front: POST /api/v1/front/orders/{number}", "front: POST", "shop: POST /internal/{path}"]
    handled = "process shop.order_placed"
    assert took.way_to(handled) == [*request, f"shop: {handled}"]
    outermost = next(one for one in took.spans.values() if one["name"] == "POST /api/v1/front/orders/{number}")
    assert outermost["parent"] == _CALLER
    statements = [one for one in took.spans.values() if one["name"] == "INSERT"]
    texts = [table for one in statements for table in ("orders", "outbox", "letters", "inbox") if table in one["said"]]
    assert set(texts) == {"orders", "outbox", "letters", "inbox"}
    assert {took.spans[one["parent"]]["name"] for one in statements} == {"POST /internal/{path}", handled}
    of_trace = [one for one in took.spans.values() if one["trace"] == _TRACE_ID]
    assert len(of_trace) >= 4 + len(statements)
    assert not [one for one in of_trace if "secret" in one["said"]]

    said = [(log.stem, one["event"]) for log in logs for one in _lines(log) if one.get("trace_id") == _TRACE_ID]
    assert {("front", "request"), ("shop", "placed"), ("shop", "request"), ("shop", "message delivered")} <= {*said}
    [placed] = [one for one in _lines(logs[1]) if one["event"] == "placed"]
    assert "sesame" not in str(placed)


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False])
def test_a_failing_collector_delays_no_request_and_the_stop_by_two_seconds(tmp_path: Path, *, is_there: bool) -> None:
    files = {"tea/router.py": "from fastapi import APIRouter\nrouter = APIRouter()\n\n"
             '@router.post("", status_code=201)\nasync def make() -> int:\n    return 1\n'}  # fmt: skip
    write_project(tmp_path, files)
    port, log = free_port(), tmp_path / "log"
    with collector(hangs=True) as took:
        variables = {
            "ENVIRONMENT": "local", "SERVER_RELOAD": "false", "OTEL_BSP_SCHEDULE_DELAY": "50",
            "SERVER_DRAIN_SECONDS": "0", "OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
            "OTEL_EXPORTER_OTLP_ENDPOINT": took.url if is_there else f"http://127.0.0.1:{free_port()}",
        }  # fmt: skip
        server = Process(tmp_path, log, variables, "serve", "--host=127.0.0.1", f"--port={port}")
        _until_ready(port, log)
        slowest = max(_post(f"http://127.0.0.1:{port}/api/v1/tea") for _ in range(200))
        assert not is_there or took.asked.wait(10)
        began_at = time.monotonic()
        server.stop()
        took_seconds = time.monotonic() - began_at
    assert slowest < 1, log.read_text()
    assert took_seconds < 4, log.read_text()  # Python's own end takes a part of this.


@pytest.mark.integration
def test_without_an_endpoint_the_sdk_is_not_imported() -> None:
    code = "import sys, kernel.serving; kernel.serving.application(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastapi" in found
    assert [one for one in found if one.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "requests"))] == []


def test_another_protocol_than_http_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf"):
        Tracing.configured(ApplicationSettings())


def test_tracing_can_be_switched_off_by_the_variables_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert Tracing.configured(ApplicationSettings()) is None
