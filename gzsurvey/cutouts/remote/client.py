"""Asking for one thing until it arrives whole, or until there is a reason to stop."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.cutouts.remote.cache import ReplyCache
from gzsurvey.cutouts.remote.session import open_session
from gzsurvey.cutouts.source import Demand
from gzsurvey.errors import AccessDenied, CutoutUnavailable, SourceFault
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

NO_IMAGE_CODES = frozenset({204, 404, 410})
FORBIDDEN_CODES = frozenset({401, 403})
PASSING_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What a host answers when the same question may work later."""
LOST_IN_A_ROW = 20
"""Things in a row that did not arrive, after which the host counts as down and the block waits."""
T = TypeVar("T")


class UnfitReply(Exception):
    """A reply is not what was asked for; asking again may help."""


class _Passing(Exception):
    """A try failed in a way that may pass."""

    def __init__(self, status: Status, reason: str, wait_s: float | None = None) -> None:
        super().__init__(status, reason, wait_s)
        self.status, self.reason, self.wait_s = status, reason, wait_s


class Client:
    """One service, and its mirrors.

    Parameters
    ----------
    name : str
        The SOURCE, for errors.
    servers : sequence of str
        Addresses of the same service, the first asked first; another only after a failure.
    politeness : Politeness
        Rate, tries, bounds.
    cache_dir : Path
        Where replies are kept.
    token : str, optional
        Bearer token, for the hosts of `servers` alone.
    """

    def __init__(
        self, name: str, servers: Sequence[str], politeness: Politeness, cache_dir: Path, token: str | None = None
    ) -> None:
        self.name, self.servers, self.politeness = name, tuple(servers), politeness
        self.session = open_session(politeness, token, frozenset(urlsplit(server).netloc for server in servers))
        self._cache = ReplyCache(cache_dir, int(politeness.cache_mb * 1e6))
        self._lock = threading.Lock()
        self._lost = 0
        self._replies = self._bytes = 0

    def fetch(
        self,
        ask: Callable[[str], requests.Response],
        decode: Callable[[bytes], T],
        key: str | None,
        tries: int | None = None,
    ) -> T:
        """Return what was asked for, decoded.

        Parameters
        ----------
        ask : callable
            Asks one of `servers`, through `session`.
        decode : callable
            Checks and decodes a body; raises `UnfitReply`.
        key : str
            Names what is asked for, whatever the server, for the cache; None: not kept.
        tries : int, optional
            Instead of the politeness's.

        Raises
        ------
        gzsurvey.errors.CutoutUnavailable
            The service has no such thing, or did not give it.
        gzsurvey.errors.AccessDenied
            It refuses us.
        gzsurvey.errors.SourceFault
            It has not given anything for a while.
        """
        kept = None if key is None else self._kept(decode, key)
        if kept is not None:
            return kept
        tries = tries or self.politeness.tries
        for attempt in range(tries):
            server = self.servers[attempt % len(self.servers)]
            try:
                body = self._body(server, ask)
                decoded = decode(body)
            except UnfitReply as error:
                failure = _Passing(Status.UNREADABLE, str(error))
            except requests.RequestException as error:
                failure = _Passing(Status.SOURCE_FAILED, _network(error))
            except _Passing as error:
                failure = error
            else:
                self._note(lost=False)
                self._count(body)
                if key is not None:
                    self._cache.put(key, body)
                return decoded
            if not self._pause(server, failure, attempt, tries):
                break
        self._note(lost=True, reason=failure.reason)
        raise CutoutUnavailable(failure.status, f"{failure.reason} ({attempt + 1} tries)")

    def demand(self, requests: int) -> Demand:
        """Return what so many requests will cost, by the replies seen so far."""
        size = requests * self._bytes / self._replies if self._replies else float("nan")
        return Demand(urlsplit(self.servers[0]).netloc, requests, size, self.politeness.requests_per_s)

    def _count(self, body: bytes) -> None:
        with self._lock:
            self._replies += 1
            self._bytes += len(body)

    def _kept(self, decode: Callable[[bytes], T], key: str) -> T | None:
        body = self._cache.get(key)
        if body is None:
            return None
        try:
            decoded = decode(body)
            self._count(body)
            return decoded
        except UnfitReply:
            self._cache.drop(key)
            return None

    def _body(self, server: str, ask: Callable[[str], requests.Response]) -> bytes:
        response = ask(server)
        code = response.status_code
        if code == 200:
            return response.content
        reason = f"{code} {response.reason}: {_said(response)}".rstrip(": ")
        if code in FORBIDDEN_CODES:
            raise AccessDenied(
                self.name, f"the service refuses us ({reason}); give a token in GZSURVEY_TOKEN, or a login in ~/.netrc"
            )
        if code in NO_IMAGE_CODES:
            self._note(lost=False)
            raise CutoutUnavailable(Status.NO_IMAGE, reason)
        if code in PASSING_CODES:
            raise _Passing(Status.SOURCE_FAILED, reason, _retry_after(response))
        raise CutoutUnavailable(Status.SOURCE_FAILED, reason)

    def _pause(self, server: str, failure: _Passing, attempt: int, tries: int) -> bool:
        """Wait before the next try; False where there is none."""
        if failure.wait_s is not None:
            if failure.wait_s > self.politeness.longest_wait_s:
                failure.reason += f", and asks to wait {failure.wait_s:.0f} s"
                return False
            HOSTS.budget(server, self.politeness.requests_per_s).pause(failure.wait_s)
        if attempt + 1 == tries:
            return False
        time.sleep(random.uniform(0, self.politeness.backoff_s * 2**attempt))  # noqa: S311 - jitter is no secret
        return True

    def _note(self, lost: bool, reason: str = "") -> None:
        with self._lock:
            self._lost = self._lost + 1 if lost else 0
            if self._lost < LOST_IN_A_ROW:
                return
            self._lost = 0
        raise SourceFault(self.name, f"did not give {LOST_IN_A_ROW} things in a row, the last: {reason}")


def _network(error: requests.RequestException) -> str:
    """One line about a failed exchange, without addresses that may hold credentials."""
    text = " ".join(str(error).split())
    if isinstance(error, requests.ConnectTimeout) or "NameResolution" in text or "NewConnection" in text:
        return "the host cannot be reached"
    if isinstance(error, requests.ReadTimeout):
        return "silence instead of a reply"
    if isinstance(error, requests.ConnectionError) and "(" in text:
        return "the connection broke"
    return text[:200] or type(error).__name__


def _said(response: requests.Response) -> str:
    """What an error reply says, in one short line."""
    text = response.content[:2000].decode("utf-8", "replace")
    try:
        said = json.loads(text)
        text = f"{said.get('title', '')}: {said.get('description', '')}".strip(": ")
    except (ValueError, AttributeError):
        text = "" if "<html" in text.lower() else text
    return " ".join(text.split())[:160]


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that a host asks to wait; None where it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0) if text else None
    except (ValueError, TypeError):
        return None
