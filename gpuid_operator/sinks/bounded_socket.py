"""A socket that bounds what a server can send.

Libraries bound what they pass on, but not all that comes before it: aiohttp bounds a response's
headers, but not how many interim responses (1xx) or chunk extensions precede it, and TLS has
messages of its own.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

MAX_RECEIVED: Final = 256 * 1024
"""Maximum number of bytes received for one request, with the TLS handshake."""
_MAX_READ: Final = 16 * 1024  # what the event loop handles at a time


class BoundedSocket(socket.socket):
    """Receives at most MAX_RECEIVED bytes, through both methods of asyncio, until `renew`."""

    _left = MAX_RECEIVED

    def renew(self) -> None:
        """Allow MAX_RECEIVED bytes for another request."""
        self._left = MAX_RECEIVED

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data = super().recv(self._at_most(bufsize), flags)
        self._left -= len(data)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        received = super().recv_into(buffer, self._at_most(nbytes or len(buffer)), flags)
        self._left -= received
        return received

    def _at_most(self, size: int) -> int:
        if not self._left:
            raise OSError(errno.EMSGSIZE, f"the server sent more than {MAX_RECEIVED} bytes")
        return min(size, self._left, _MAX_READ)
