"""Numbers for Prometheus, written without it."""

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS_PER_SECOND = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Counts of values up to each bound, and their sum.

    Args:
        bounds: in rising order.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterator[str]:
        """As Prometheus reads it."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield sample(f"{name}_sum", labels, self._sum)
        yield sample(f"{name}_count", labels, total)


@dataclass(slots=True)
class EngineCounts:
    """What an engine did; written by its thread alone."""

    n_generated: int = 0
    n_read: int = 0
    n_failed: int = 0
    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_S))
    tokens_per_second: Histogram = field(default_factory=lambda: Histogram(TOKENS_PER_SECOND))


class HttpCounts:
    """What was asked over HTTP; written on the event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds = Histogram(REQUEST_S)
        self.n_active = 0

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it."""
        yield from head("smalllm_http_requests_total", "counter", "Requests, by route, method and status.")
        for (route, method, status), n in sorted(self.requests.items()):
            labels = {"route": route, "method": method, "status": str(status)}
            yield sample("smalllm_http_requests_total", labels, n)
        yield from head("smalllm_http_requests_active", "gauge", "Requests that are being answered.")
        yield sample("smalllm_http_requests_active", {}, self.n_active)
        yield from head("smalllm_http_request_seconds", "histogram", "From the headers of a request to its answer.")
        yield from self.seconds.lines("smalllm_http_request_seconds", {})


def head(name: str, kind: str, text: str) -> Iterator[str]:
    """What a metric is."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def sample(name: str, labels: Mapping[str, str], value: int | float) -> str:
    """One number."""
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
