"""What is counted, for Prometheus. Labels never hold a person, a key or a prompt."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.runs = Counter(
            "polydev_runs", "Runs that ended.", ["provider", "reason"], registry=self.registry
        )
        self.running = Gauge("polydev_runs_running", "Runs in flight.", registry=self.registry)
        self.queued = Gauge("polydev_runs_queued", "Runs waiting.", registry=self.registry)
        self.first_token = Histogram(
            "polydev_first_token_seconds",
            "From a run's admission to its first token.",
            ["provider"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refreshes = Counter(
            "polydev_refreshes", "Credential refreshes.", ["provider", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "polydev_requests_refused", "Requests refused for their key.", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self.log_dropped = Counter(
            "polydev_run_events_dropped",
            "Events that could not be written and were dropped.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)
