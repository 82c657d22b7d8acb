"""A faster histogram in prometheus_client's file format for several processes, for the duration of each request.

The library writes each number through an object of its own, with a lock and a check of the process ID. Here an
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
#: The memory of the file, the positions of the buckets and of the sum in it, and their values.
Series: TypeAlias = "tuple[memoryview[float], list[int], list[float]]"


def _size(key: str) -> int:
    """Return the most bytes that a key takes in the file, with its length, padding, value and timestamp."""
    return len(key.encode()) + 4 + 8 + 2 * _DOUBLE


class FastHistogram:
    """A histogram with the arguments of :class:`prometheus_client.Histogram`, stored in `pages`."""

    def __init__(
        self, pages: Pages, name: str, documentation: str, labelnames: Sequence[str], *, buckets: Sequence[float]
    ) -> None:
        self._pages = pages
        self._name = name
        self._documentation = documentation
        self._labelnames = list(labelnames)
        self._bounds = [*buckets, float("inf")]
        self._series: dict[tuple[str, ...], Series] = {}
        self._cells = memoryview(b"").cast("d")  # the memory of the file
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def observe(self, value: float, labels: tuple[str, ...]) -> None:
        """Count `value` in the series with these label values."""
        series = self._series.get(labels)
        if series is None:
            with self._lock:
                series = self._series.setdefault(labels, self._open_or_discard(labels))
        cells, places, numbers = series
        index = bisect_left(self._bounds, value)
        with self._lock:
            numbers[index] += 1.0
            numbers[-1] += value
            cells[places[index]] = numbers[index]
            cells[places[-1]] = numbers[-1]

    def _open_or_discard(self, labels: tuple[str, ...]) -> Series:
        try:
            return self._open(labels)
        except OSError as error:
            logging.getLogger(__name__).error(
                "%s with the labels %s is not counted: %s", self._name, labels, error.strerror
            )
            size = len(self._bounds) + 1
            return memoryview(bytearray(size * _DOUBLE)).cast("d"), list(range(size)), [0.0] * size

    def _open(self, labels: tuple[str, ...]) -> Series:
        """Return a series, with the values that an earlier process has left in the file."""
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
        """Start again in a forked process: it counts in a page of its own."""
        self._series, self._cells, self._lock = {}, memoryview(b"").cast("d"), threading.Lock()
