"""What /metrics tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The numbers of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "sdc_requests", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sdc_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("sdc_requests_in_flight", "Requests begun and not yet answered.", registry=registry)
        self.reloads = Counter("sdc_reloads", "Changed indexes that were taken up.", registry=registry)
        self.failed_reloads = Counter("sdc_failed_reloads", "Attempts to open a changed index.", registry=registry)
        self._codes = Gauge("sdc_index_codes", "Codes of the index that is served.", registry=registry)
        self._generation = Gauge("sdc_index_generation", "Number of the index that is served.", registry=registry)

    def serves(self, codes: int, generation: int) -> None:
        """An index of so many codes is served now."""
        self._codes.set(codes)
        self._generation.set(generation)

    def text(self) -> bytes:
        """All numbers, in the text format of Prometheus."""
        return generate_latest(self._registry)
