"""A helper that reads from the API server all the time, as others in a cluster do.

Arguments: server, CA file, token. Each question is answered with the times of the GETs since the
one before, in seconds, and with the number of GETs without success. Ten connections send five GETs
per second each, so that a slow GET does not keep the others back.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

PATH = "/api/v1/namespaces/default"
CONNECTIONS = 10
PERIOD = 0.2


class Measurements:
    """What all connections measured since the last `take`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._took: list[float] = []
        self._failed = 0

    def add(self, took: float, *, failed: bool) -> None:
        with self._lock:
            self._took.append(took)
            self._failed += failed

    def take(self) -> dict[str, object]:
        with self._lock:
            found = {"seconds": self._took, "failed": self._failed}
            self._took, self._failed = [], 0
        return found


class Connection(threading.Thread):
    """Sends a GET per period; those that are due while one is under way are left out."""

    def __init__(
        self, server: str, ca_file: str, token: str, *, delay: float, measurements: Measurements
    ) -> None:
        super().__init__(daemon=True)
        self._address = urlsplit(server).netloc
        self._context = ssl.create_default_context(cafile=ca_file)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._due = time.monotonic() + delay
        self._measurements = measurements

    def run(self) -> None:
        connection = self._connect()
        while True:
            time.sleep(max(0.0, self._due - time.monotonic()))
            began = time.monotonic()
            try:
                connection.request("GET", PATH, headers=self._headers)
                response = connection.getresponse()
                response.read()
                failed = response.status != 200
            except (OSError, http.client.HTTPException):
                failed = True
                connection.close()
                connection = self._connect()
            now = time.monotonic()
            self._measurements.add(now - began, failed=failed)
            while self._due <= now:
                self._due += PERIOD

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, timeout=30, context=self._context)


def main() -> None:
    measurements = Measurements()
    for number in range(CONNECTIONS):
        delay = number * PERIOD / CONNECTIONS
        server, ca_file, token = sys.argv[1:]
        Connection(server, ca_file, token, delay=delay, measurements=measurements).start()
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measurements.take()), flush=True)


if __name__ == "__main__":
    main()
