"""The counts of one process as Prometheus' metric families. Imported by the first scrape."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

from kernel.ext.telemetry.database_connections import database_connections
from kernel.ext.telemetry.http_connections import http_connections
from kernel.ext.telemetry.meter import BUCKETS, Meter
from kernel.gauges import Gauge
from kernel.runtime import Kernel


def families(kernel: Kernel, meter: Meter) -> Iterator[Metric]:
    """Yield every metric of this process."""
    yield _durations(kernel, meter)
    for gauge in (*_of_application(kernel, meter), *database_connections(kernel.pool), *http_connections(kernel.http)):
        yield _family(gauge)
    for source in kernel.builder.gauges:
        yield from map(_family, source.gauges())
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    yield from registry.collect()


def merged(processes: Iterable[Iterable[Metric]]) -> bytes:
    """Return the metrics of several processes as one text."""
    found: dict[str, Metric] = {}
    for family in (one for process in processes for one in process):
        known = found.setdefault(family.name, family)
        if known is not family:
            known.samples.extend(family.samples)
    return generate_latest(_Collected(found.values()))


class _Collected:
    """A registry for `generate_latest`."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self.collect: Callable[[], Iterable[Metric]] = lambda: found


def _family(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.text, labels=list(gauge.labels))
    for values, number in gauge.rows:
        family.add_metric(list(values), number)
    return family


def _durations(kernel: Kernel, meter: Meter) -> Metric:
    family = HistogramMetricFamily(
        "http_server_request_duration_seconds",
        "Requests, from their first byte to the last byte of the response.",
        labels=["module", "route", "method", "status"],
    )
    prefixes = {module.name: module.prefix for module in kernel.modules}
    for (module, route, method, status), one in list(meter.requests.items()):
        prefix = prefixes.get(module, "")
        path = route if route is None or route.startswith(prefix) else prefix + route
        family.add_metric([module, path or "", method, str(status)], _cumulated(one.counts), one.total)
    return family


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _of_application(kernel: Kernel, meter: Meter) -> Iterator[Gauge]:
    settings = kernel.settings.application
    lag, meter.lag = meter.lag, 0.0
    version = (settings.version, settings.environment.value)
    yield Gauge("application_info", "The version that runs.", ("version", "environment"), [(version, 1)])
    yield Gauge("http_server_requests_in_flight", "Requests that are being handled.", (), [((), meter.in_flight)])
    yield Gauge("websocket_connections", "Open WebSockets.", (), [((), meter.websockets)])
    text = "By how much the event loop was late: the most since the last scrape."
    yield Gauge("event_loop_lag_seconds", text, (), [((), lag)])
