"""prometheus_client's histogram for many processes, in its own format, at a fraction of its cost: it is on every
request's path.

The library writes each number through an object of its own, with a lock and a look at the process's id. Here an
observation adds to two numbers in memory.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.utils import floatToGoString

from flask_socketact.shared.metric_files import Pages

_DOUBLE = 8  # bytes
#: The memory, where in it buckets and sum are, and what they are.
Series: TypeAlias = "tuple[memoryview[float], list[int], list[float]]"


def _size(key: str) -> int:
    """Return how many bytes a key takes at most, with its length, padding, value and time."""
    return len(key.encode()) + 4 + 8 + 2 * _DOUBLE


class FastHistogram:
    """Takes what :class:`prometheus_client.Histogram` takes, and the pages in which it counts."""

    def __init__(
        self, pages: Pages, name: str, documentation: str, labelnames: Sequence[str], *, buckets: Sequence[float]
    ) -> None:
        self._pages = pages
        self._name = name
        self._documentation = documentation
        self._labelnames = list(labelnames)
        self._bounds = [*buckets, float("inf")]
        self._series: dict[tuple[str, ...], Series] = {}
        self._cells = memoryview(b"").cast("d")  # the file's memory
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def observe(self, value: float, labels: tuple[str, ...]) -> None:
        """Count `value` in the series with these values of the labels."""
        series = self._series.get(labels)
        if series is None:
            with self._lock:
                series = self._series.setdefault(labels, self._make_or_forget(labels))
        cells, places, numbers = series
        index = bisect_left(self._bounds, value)
        with self._lock:
            numbers[index] += 1.0
            numbers[-1] += value
            cells[places[index]] = numbers[index]
            cells[places[-1]] = numbers[-1]

    def _make_or_forget(self, labels: tuple[str, ...]) -> Series:
        try:
            return self._make(labels)
        except OSError as error:
            logging.getLogger(__name__).error("%s of %s is not counted: %s", self._name, labels, error.strerror)
            size = len(self._bounds) + 1
            return memoryview(bytearray(size * _DOUBLE)).cast("d"), list(range(size)), [0.0] * size

    def _make(self, labels: tuple[str, ...]) -> Series:
        """Return the file's memory, where in it buckets and sum of a series are, and what they are: they go on from
        what is there."""
        keys = self._keys(labels)
        path = str(self._pages.make_room("histogram_fast", sum(map(_size, keys))))
        file = MmapedDict(path)  # type: ignore[no-untyped-call]
        for key in keys:
            file.read_value(key)  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]
        found = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
        positions = {key: position // _DOUBLE for key, _, _, position in found}
        if len(self._cells) * _DOUBLE != os.stat(path).st_size:  # new, or it has grown
            with open(path, "r+b") as opened:
                self._cells = memoryview(mmap.mmap(opened.fileno(), 0)).cast("d")
        places = [positions[key] for key in keys]
        return self._cells, places, [self._cells[place] for place in places]

    def _keys(self, labels: tuple[str, ...]) -> list[str]:
        names, name, text = self._labelnames, self._name, self._documentation
        return [
            *(
                mmap_key(name, f"{name}_bucket", [*names, "le"], [*labels, floatToGoString(bound)], text)  # type: ignore[no-untyped-call]
                for bound in self._bounds
            ),
            mmap_key(name, f"{name}_sum", names, list(labels), text),
        ]

    def _forget(self) -> None:
        """A child of this process counts in a page of its own."""
        self._series, self._cells, self._lock = {}, memoryview(b"").cast("d"), threading.Lock()
