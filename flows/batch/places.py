"""How many requests of a batch are at work at the same time.

A request gives its place to another one while its sources are slow, so that slow sources hold up
their own requests only.
"""

import asyncio

from faceid.files.sources import Patience

ASIDE = 64
"""Number of requests with slow sources that may be at work in addition to the others. It is limited
because each of them takes memory, threads and connections."""


class Places:
    """The places of a batch: ``concurrency`` of them, and ``ASIDE`` next to them.

    ``source_seconds`` is how long the reading of one source may take in all.
    """

    def __init__(self, concurrency: int, source_seconds: float) -> None:
        self._source_seconds = source_seconds
        self._begun = asyncio.Semaphore(concurrency + ASIDE)
        self._at_work = asyncio.Semaphore(concurrency)

    async def take(self) -> "Place":
        """Wait for a free place, and take it."""
        await self._begun.acquire()
        await self._at_work.acquire()
        return Place(self._source_seconds, self._begun, self._at_work)


class Place(Patience):
    """The place of one request. It must be left when the request ends."""

    def __init__(
        self, source_seconds: float, begun: asyncio.Semaphore, at_work: asyncio.Semaphore
    ) -> None:
        super().__init__(source_seconds)
        self._begun = begun
        self._at_work = at_work
        self._is_aside = False

    def step_aside(self) -> None:
        """Let another request begin."""
        if not self._is_aside:
            self._is_aside = True
            self._at_work.release()

    async def resume(self) -> None:
        """If the request has stepped aside, wait for a free place."""
        if self._is_aside:
            await self._at_work.acquire()
            self._is_aside = False

    def leave(self) -> None:
        """Free the place, because the request has ended."""
        if not self._is_aside:
            self._at_work.release()
        self._begun.release()
