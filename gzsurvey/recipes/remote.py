"""How services on the network are asked: no faster, and no longer, than is polite."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gzsurvey.recipes.base import Section


class Politeness(Section):
    """What any one host is asked for at most, and what is done when it stumbles."""

    requests_per_s: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """Requests a second to one host, tries again included, of all workers together."""
    longest_days: Annotated[float, Field(gt=0, le=3660)] = 90.0
    """A run that would ask one host for longer than this is refused by `plan`."""
    connections: Annotated[int, Field(ge=1, le=64)] = 6
    """Connections of one worker to one host, kept open between requests."""
    tries: Annotated[int, Field(ge=1, le=20)] = 5
    """Times that one thing is asked for before it is a miss."""
    backoff_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    """Wait before the second try, at random up to this; it doubles with each further try."""
    longest_wait_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """A host that asks for a longer pause (``Retry-After``) is not asked again in this block."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Longest silence of a connection."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Longest time for one whole reply, however steadily it drips."""
    max_mb: Annotated[float, Field(gt=0, le=4096)] = 64.0
    """A larger reply is not read."""
    cache_mb: Annotated[float, Field(ge=0)] = 2048.0
    """Replies kept on disk, in the user's cache, the last used first; 0 keeps none."""
