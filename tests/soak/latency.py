"""Response times in a histogram whose buckets are a thousandth wide, from a microsecond to a minute."""

from __future__ import annotations

from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

#: Shown percentiles. For the last one, one request of ten thousand took longer.
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
#: Longest time that a client waits for a response, in seconds; also the end of the histogram.
LONGEST = 60.0
_MICROSECOND = 1e-6
_DIGITS = 3


class Latency:
    """Response times of many requests, each with an error of a thousandth at most."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, int(LONGEST / _MICROSECOND), _DIGITS)
        self._record = self._histogram.record_value
        self._longest = self._histogram.highest_trackable_value

    def record(self, seconds: float) -> None:
        """Add a request. Times out of range count as the shortest, or longest, there is."""
        self._record(min(max(int(seconds / _MICROSECOND), 1), self._longest))

    def __len__(self) -> int:
        """Return the number of requests."""
        return int(self._histogram.get_total_count())

    def percentile(self, percent: float) -> float:
        """Return the seconds within which so many percent of the requests had their response; 0.0 without requests."""
        return float(self._histogram.get_value_at_percentile(percent)) * _MICROSECOND if len(self) else 0.0

    @property
    def maximum(self) -> float:
        """Seconds of the slowest request."""
        return self.percentile(100.0)

    def encode(self) -> str:
        """Return the histogram as text: compressed, in base64, as all HDR histograms are exchanged."""
        return str(self._histogram.encode().decode())

    def add_encoded(self, text: str) -> None:
        """Add what :meth:`encode` has returned."""
        self._histogram.decode_and_add(text)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Latency:
        """Return the sum of encoded histograms."""
        total = cls()
        for text in texts:
            total.add_encoded(text)
        return total
