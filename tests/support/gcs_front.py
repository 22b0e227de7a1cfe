"""Stands in front of a Cloud Storage server that takes every token, and checks them as Google
does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import jwt
from aiohttp import web
from yarl import URL

from tests.support.loop_thread import LoopThread

_WRITE: Final = "https://www.googleapis.com/auth/devstorage.read_write"


class GCSFront(LoopThread):
    """Passes requests on whose token a service account has signed. Use it as a context."""

    def __init__(self, upstream: str, key: Any, account: Mapping[str, str]) -> None:
        super().__init__("gcs-front")
        self.url = ""
        self._upstream = upstream
        self._key = key
        self._account = account

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.Response:
        if not self._is_valid(request.headers.get("Authorization", "")):
            said = "Request had invalid authentication credentials."
            reason = {"domain": "global", "reason": "authError", "message": said}
            error = {"code": 401, "message": said, "errors": [reason]}
            return web.json_response({"error": error}, status=401)
        async with self._session.request(
            request.method,
            URL(f"{self._upstream}{request.rel_url.raw_path_qs}", encoded=True),
            data=await request.read(),
            headers={"Content-Type": request.headers.get("Content-Type", "")},
        ) as response:
            return web.Response(
                status=response.status,
                reason=response.reason,
                body=await response.read(),
                content_type=response.content_type,
            )

    def _is_valid(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["RS256"],
                issuer=self._account["client_email"],
                options={"require": ["iss", "sub", "iat", "exp", "scope"]},
            )
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            return False
        lifetime = claims["exp"] - claims["iat"]
        own = key_id == self._account["private_key_id"]
        return scheme == "Bearer" and own and claims["scope"] == _WRITE and lifetime <= 3600
