"""`Memory`: a small cache that threads share."""

import threading
from collections import OrderedDict


class Memory:
    """The most recently used values whose sizes are at most `size` together; others are dropped."""

    def __init__(self, size: int):
        self._left = size
        self._values: OrderedDict = OrderedDict()  # and their sizes
        self._lock = threading.Lock()

    def get(self, key):
        """The value of a key, or None."""
        with self._lock:
            if (kept := self._values.get(key)) is None:
                return None
            self._values.move_to_end(key)
            return kept[0]

    def put(self, key, value, size: int = 1) -> None:
        size = max(size, 1)
        with self._lock:
            self._left += self._values.pop(key, (None, 0))[1] - size
            self._values[key] = value, size
            while self._left < 0:
                self._left += self._values.popitem(last=False)[1][1]
