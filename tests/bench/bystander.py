"""A helper that reads from the API server all the time, as others in a cluster do.

Arguments: server, CA file, token. Each question is answered with the times of the GETs since the
one before, in seconds, and with the number of GETs without success. A GET is due every 20 ms,
and its time begins then, also when the one before takes longer.
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
PERIOD = 0.02


class Bystander(threading.Thread):
    def __init__(self, server: str, ca_file: str, token: str) -> None:
        super().__init__(daemon=True)
        self._address = urlsplit(server).netloc
        self._context = ssl.create_default_context(cafile=ca_file)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._lock = threading.Lock()
        self._took: list[float] = []
        self._failed = 0

    def restart(self) -> dict[str, object]:
        """What was measured since the last restart."""
        with self._lock:
            found = {"seconds": self._took, "failed": self._failed}
            self._took, self._failed = [], 0
        return found

    def run(self) -> None:
        connection = self._connect()
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                connection.request("GET", PATH, headers=self._headers)
                response = connection.getresponse()
                response.read()
                failed = response.status != 200
            except (OSError, http.client.HTTPException):
                failed = True
                connection.close()
                connection = self._connect()
            with self._lock:
                self._took.append(time.monotonic() - due)
                self._failed += failed
            due += PERIOD

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, timeout=30, context=self._context)


def main() -> None:
    bystander = Bystander(*sys.argv[1:])
    bystander.start()
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(bystander.restart()), flush=True)


if __name__ == "__main__":
    main()
