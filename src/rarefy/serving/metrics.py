"""What Prometheus reads at /metrics, in a registry of this server's own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; each may be changed from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "rarefy_requests", "Answers by route and status", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "rarefy_request_seconds", "From a request to its answer", ("route",), registry=registry
        )
        self.calls = Counter("rarefy_model_calls", "Calls of the model", registry=registry)
        self.batch = Histogram("rarefy_batch_texts", "Texts in a call", buckets=_SIZES, registry=registry)
        self.read = Counter("rarefy_tokens_read", "Tokens of the texts that were given", registry=registry)
        self.written = Counter("rarefy_tokens_written", "Tokens that were generated", registry=registry)
        self.dropped = Counter("rarefy_dropped", "Works given up, by reason", ("reason",), registry=registry)
        self.waiting = Gauge("rarefy_waiting_texts", "Texts that wait for the model", registry=registry)
        self.active = Gauge("rarefy_active_texts", "Texts that are being generated", registry=registry)

    def page(self) -> bytes:
        return generate_latest(self.registry)
