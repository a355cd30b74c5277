"""Pacers that share the rate of an account and action among all processes that use them.

On one machine the rate is shared through a file beside the locks. Where several machines share the
storage, ``FACEID_LOCKS`` names a Redis server, and the rate is shared through that server: a script
makes the same calculation as ``faceid.pacing``, with the server's clock.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.errors import InvalidInput, StorageError
from faceid.pacing import (
    CAPACITY,
    CATCH_UP,
    GUARD,
    RATE_MEMORY,
    RECOVERY,
    SLOWER,
    SLOWER_ONCE,
    SLOWEST,
    THROTTLED,
    Pacer,
    SharedPacer,
)
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.locks import REDIS_SECONDS, check_locks, locks_unavailable
from tasks.state.private_files import make_private_folder
from tasks.state.storage import Storage


def open_pacers(
    settings: DeliverySettings, storage: Storage, account: str, *, priority: bool
) -> Callable[[str], Pacer | None]:
    """Return a function that returns the pacer of an action, or ``None`` if its rate is unknown.

    Pacers with ``priority`` are served before those without, which batches use. The returned
    function raises ``InvalidInput`` if ``FACEID_LOCKS`` is invalid, and ``StorageError`` if the
    folder for the pacers' files cannot be created.
    """
    folder = layout.pace_folder(storage.folder)

    def pacer_of(action: str) -> Pacer | None:
        rate = settings.rate(action)
        if rate is None:
            return None
        name = f"{settings.service}/{account}/{action}"
        if settings.locks:
            check_locks(settings.locks)
            return RedisPacer(rate, settings.locks, f"faceid:pace:{name}", priority=priority)
        try:
            make_private_folder(folder)
        except OSError as error:
            raise StorageError(
                "StorageUnavailable", f"cannot pace calls ({error.strerror})"
            ) from None
        return SharedPacer(
            rate, folder / hashlib.sha256(name.encode()).hexdigest(), priority=priority
        )

    return pacer_of


_SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local rate = tonumber(ARGV[1])
local due, urgent, factor, slowed_at = 0, 0, 1, 0
local kept = redis.call('HMGET', KEYS[1], 'due', 'urgent', 'factor', 'slowed_at', 'rate', 'seen')
if (tonumber(kept[1]) or 0) > now + 10 + 12 then
  kept = {{}}  -- the server's clock has been set back, as after a failover
  redis.call('DEL', KEYS[1], KEYS[2])
end
due, urgent = tonumber(kept[1]) or due, tonumber(kept[2]) or urgent
factor, slowed_at = tonumber(kept[3]) or factor, tonumber(kept[4]) or slowed_at
local slowest, seen = tonumber(kept[5]) or 0, tonumber(kept[6]) or 0
local is_slowest = not (slowest > 0 and slowest < rate and now - seen <= {RATE_MEMORY})
if not is_slowest then rate = slowest end
local limit = math.min(math.max(1, math.floor(rate)), {CAPACITY})
local span = limit / rate * {1 + GUARD}
factor = 1 + math.max(0, factor - 1) * math.max(0, 1 - (now - slowed_at) / {RECOVERY})

local function keep(...)
  redis.call('HSET', KEYS[1], ...)
  redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * (2 * {RECOVERY} + 4 * span)))
end
local function text(number) return string.format('%.6f', number) end

if ARGV[2] == 'slow down' then
  if now - slowed_at >= {THROTTLED} then
    local slower = {SLOWER_ONCE}
    if factor > 1 then slower = math.min(factor * {SLOWER}, {SLOWEST}) end
    keep('factor', text(slower), 'slowed_at', text(now))
  end
  keep('due', text(math.max(due, now + {THROTTLED})))
  return {{text(now), '0', tostring(rate)}}
end

if ARGV[2] == 'late' then
  local place = redis.call('LPOS', KEYS[2], ARGV[3])
  if place then redis.call('LSET', KEYS[2], place, ARGV[4]) end
  return {{text(now), '0', tostring(rate)}}
end

span = span * factor
local oldest = tonumber(redis.call('LINDEX', KEYS[2], limit - 1) or nil)
local start = due
if oldest then start = math.max(start, oldest + span) end
if ARGV[2] == 'priority' then
  if start > now then keep('urgent', text(start + span / limit / 2)) end
else
  start = math.max(start, urgent)
end
if is_slowest then keep('rate', tostring(rate), 'seen', text(now)) end
if start > now then return {{text(now), text(start - now), tostring(rate)}} end
redis.call('LPUSH', KEYS[2], text(now))
redis.call('LTRIM', KEYS[2], 0, {CAPACITY - 1})
redis.call('PEXPIRE', KEYS[2], math.ceil(8000 * span))
if now - due > {CATCH_UP} then due = now end
keep('due', text(due + span / limit))
return {{text(now), '0', tostring(rate)}}
"""


class RedisPacer(Pacer):
    """Shares a rate among all machines that use the same Redis server.

    ``rate`` is in starts per second, and ``name`` identifies what is paced. The constructor raises
    ``InvalidInput`` if the URL is invalid; the other methods raise ``StorageError`` if the server
    cannot be reached.
    """

    def __init__(self, rate: float, url: str, name: str, *, priority: bool = False) -> None:
        super().__init__(rate, priority=priority)
        # This does not connect; the first command does.
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
            )
        except ValueError:
            raise InvalidInput("Configuration", "FACEID_LOCKS: not a valid redis:// URL") from None
        script = self._redis.register_script(_SCRIPT)
        self._script = cast("Callable[..., Awaitable[list[bytes]]]", script)
        # The braces put both keys into the same slot of a Redis cluster.
        self._keys = [f"{{{name}}}:state", f"{{{name}}}:starts"]
        self._way = "priority" if priority else "after"

    async def _ask(self) -> tuple[float, float]:
        now, wait, rate = await self._run(self._way)
        self._tell(float(rate))
        # The script rounds to microseconds. One more is added, so that the start is due after the
        # wait.
        return float(now), float(wait) and float(wait) + 1e-6

    async def _move(self, start: float, lag: float) -> None:
        await self._run("late", f"{start:.6f}", f"{start + lag:.6f}")

    async def throttled(self) -> None:
        """Report that the service refused a call because of its rate limit."""
        await self._run("slow down")

    async def close(self) -> None:
        """Close the connection to the server."""
        await self._redis.aclose()

    async def _run(self, what: str, *more: str) -> list[bytes]:
        try:
            return await self._script(keys=self._keys, args=[self._rate, what, *more])
        except RedisError as error:
            raise locks_unavailable(error) from None
