"""One exchange with a host, bounded in rate, time and size, for requests, astroquery and pyvo alike."""

from __future__ import annotations

import io
import time
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.cutouts.remote.watch import pools
from gzsurvey.recipes.remote import Politeness

CHUNK_BYTES = 1 << 16
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that credentials reach without leaving this machine."""


class ReplyTooLarge(requests.RequestException):
    """A reply is larger than any cutout."""


class ReplyTooSlow(requests.Timeout):
    """A reply was not whole by its deadline."""


class ReplyCutShort(requests.ConnectionError):
    """A connection ended before the reply did."""


def open_session(
    politeness: Politeness, token: str | None = None, hosts: frozenset[str] = frozenset()
) -> requests.Session:
    """Return a session that threads may share.

    Parameters
    ----------
    politeness : Politeness
        Rate, connections, times and sizes.
    token : str, optional
        Sent as a bearer token, over https or to this machine only.
    hosts : frozenset of str
        The only ones that the token is sent to, whoever names others in links and redirects.
    """
    session = requests.Session()
    session.headers["User-Agent"] = (
        f"gzsurvey/{version('gzsurvey')} astroquery/{version('astroquery')} python-requests/{version('requests')}"
    )
    session.headers["Accept-Encoding"] = "identity"
    session.max_redirects = 5
    adapter = BoundedAdapter(politeness, token, hosts)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class BoundedAdapter(HTTPAdapter):
    """Pooled connections, each exchange within the host's budget and read whole within its bounds.

    Parameters
    ----------
    politeness : Politeness
        The bounds.
    token : str or None
        Bearer token.
    hosts : frozenset of str
        Whose it is.
    """

    def __init__(self, politeness: Politeness, token: str | None, hosts: frozenset[str]) -> None:
        super().__init__(pool_connections=4, pool_maxsize=politeness.connections, max_retries=0, pool_block=True)
        self.poolmanager.pool_classes_by_scheme = pools(politeness.deadline_s)
        self._politeness, self._token, self._hosts = politeness, token, hosts

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """Send one request and read the reply.

        Raises
        ------
        requests.RequestException
            No reply, or one that is too large, too slow or cut short.
        """
        address = request.url or ""
        if urlsplit(address).scheme != "https" and urlsplit(address).hostname not in LOOPBACK:
            request.headers.pop("Authorization", None)
        elif self._token and urlsplit(address).netloc in self._hosts:
            request.headers["Authorization"] = f"Bearer {self._token}"
        HOSTS.budget(address, self._politeness.requests_per_s).wait()
        deadline = time.monotonic() + self._politeness.deadline_s
        known = {name: options[name] for name in ("verify", "cert", "proxies") if name in options}
        response = super().send(request, stream=True, timeout=self._politeness.timeout_s, **known)
        try:
            body = self._body(response, deadline)
        except BaseException:
            response.close()
            raise
        response.raw.release_conn()
        response.raw = HTTPResponse(io.BytesIO(body), status=response.status_code, preload_content=False)
        return response

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        limit = int(self._politeness.max_mb * 1e6)
        stated = response.headers.get("Content-Length", "")
        if stated.isdecimal() and int(stated) > limit:
            raise ReplyTooLarge(f"a reply of {int(stated):,} bytes, {limit:,} are allowed")
        body = bytearray()
        try:
            # read1 returns what one packet brought: a drip cannot outlast the deadline.
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                body += chunk
                if len(body) > limit:
                    raise ReplyTooLarge(f"a reply of more than {limit:,} bytes")
                if time.monotonic() > deadline:
                    raise ReplyTooSlow(f"a reply that is not whole after {self._politeness.deadline_s:g} s")
        except (HTTPError, OSError) as error:
            raise _cut_short(error, len(body)) from None
        if stated.isdecimal() and "Content-Encoding" not in response.headers and len(body) < int(stated):
            raise ReplyCutShort(f"a reply cut short after {len(body):,} of {stated} bytes")
        return bytes(body)


def _cut_short(error: Exception, received: int) -> requests.RequestException:
    if isinstance(error, requests.RequestException):
        return error
    if "timed out" in str(error):
        return ReplyTooSlow(f"silence after {received:,} bytes of a reply")
    return ReplyCutShort(f"a reply cut short after {received:,} bytes")
