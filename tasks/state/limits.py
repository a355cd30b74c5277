"""The limit on an account's calls of an action in a day: ``FACEID_MAX_CALLS_PER_DAY``.

What counts is each call that has left, also if no answer came. A call is counted before it leaves
and taken off again if it did not leave or was throttled; if its process dies in between, it stays
counted. So there are never more calls in a day than the limit allows, however many processes call.

The count is kept where the rate is kept (``tasks.state.pacing``): in a file beside the locks or, if
``FACEID_LOCKS`` is set, on the Redis server. Each day has a count of its own, so that a clock that
is set back finds the count of that day again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.errors import FaceIdError, InvalidInput, StorageError
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.file_locks import file_lock
from tasks.state.locks import REDIS_SECONDS, check_locks, locks_unavailable
from tasks.state.private_files import write_private_file
from tasks.state.storage import Storage
from tasks.state.threads import in_storage_thread

DAYS_KEPT = 7
"""Number of days whose counts a file keeps: those that were changed last."""

REDIS_KEEPS = 2 * 86400
"""Seconds for which the Redis server keeps the count of a day after its last change."""

LOCK_SECONDS = 10.0
"""Longest wait for the lock of the file."""


class LimitReached(FaceIdError):
    """Raised if the account has made as many calls of an action today as the limit allows."""

    kind = "unavailable"
    default_advice = "Deliver the same request again then, or raise FACEID_MAX_CALLS_PER_DAY."

    def __init__(self, action: str, limit: int, day: "Day") -> None:
        turn = day.end.astimezone(day.zone).isoformat(timespec="minutes")
        super().__init__(
            "DailyLimit", f"{action} has its {limit:,} calls of this day; goes on at {turn}"
        )
        self.until = day.end
        """When the next day begins (UTC)."""


class Day(NamedTuple):
    """A day in the time zone ``FACEID_DAY``."""

    date: date
    """The date."""
    zone: ZoneInfo
    """The time zone."""

    @classmethod
    def today(cls, zone: ZoneInfo) -> "Day":
        """Return the current day in a time zone, by the clock of this machine."""
        return cls(datetime.now(zone).date(), zone)

    @property
    def end(self) -> datetime:
        """When the next day begins (UTC)."""
        midnight = datetime.combine(self.date + timedelta(days=1), time(), self.zone)
        return midnight.astimezone(UTC)


class DailyLimit(ABC):
    """The limit on the calls of an action that an account makes in a day.

    ``limit`` is the number of calls, and ``zone`` the time zone of the day. All methods raise
    ``StorageError`` if the count cannot be read or written; then no call must leave.
    """

    def __init__(self, action: str, limit: int, zone: ZoneInfo) -> None:
        self.action = action
        """The action."""
        self.limit = limit
        """The number of calls in a day."""
        self.zone = zone
        """The time zone of the day."""

    async def require(self) -> None:
        """Raise ``LimitReached`` if no call is left today. This counts nothing."""
        day = Day.today(self.zone)
        if await self._calls(day) >= self.limit:
            raise LimitReached(self.action, self.limit, day)

    async def take(self) -> Day:
        """Count a call that is about to leave, and return the day for which it is counted.

        Raises ``LimitReached`` if no call is left today.
        """
        day = Day.today(self.zone)
        if not await self._take(day):
            raise LimitReached(self.action, self.limit, day)
        return day

    async def give_back(self, day: Day) -> None:
        """Take a call off the count of a day, because it has not left or was throttled.

        If that is impossible, the call stays counted, and no error is raised.
        """
        with suppress(StorageError):
            await self._give_back(day)

    async def left(self) -> int:
        """Return how many calls are left today."""
        return max(0, self.limit - await self._calls(Day.today(self.zone)))

    async def describe(self) -> str:
        """Return what is left today in words."""
        left, zone = await self.left(), self.zone.key
        return f"{self.action}: {left:,} of {self.limit:,} calls left today ({zone})"

    @abstractmethod
    async def is_first_to_tell(self) -> bool:
        """Return whether it has still to be told that today's limit is reached.

        This is so once for each day, and again if the limit has been raised meanwhile.
        """

    @abstractmethod
    async def _calls(self, day: Day) -> int:
        """Return the number of calls that are counted for a day."""

    @abstractmethod
    async def _take(self, day: Day) -> bool:
        """Count a call of a day if the limit allows it, and return whether it does."""

    @abstractmethod
    async def _give_back(self, day: Day) -> None:
        """Take a call off the count of a day."""


def open_limit(settings: DeliverySettings, storage: Storage, action: str) -> DailyLimit | None:
    """Return the limit on an action's calls by the account of the settings; ``None`` if none.

    Raises ``InvalidInput`` if ``FACEID_LOCKS`` is invalid.
    """
    limit = settings.max_calls_per_day.get(action)
    if limit is None:
        return None
    name = f"{settings.service}/{settings.account}/{action}"
    if settings.locks:
        check_locks(settings.locks)
        return _LimitOnRedis(action, limit, settings.zone, settings.locks, name)
    return _LimitInFile(action, limit, settings.zone, storage.folder, name)


class _Count(BaseModel, extra="forbid", strict=True):
    """The calls of one day."""

    calls: int = Field(default=0, ge=0)
    """Number of calls."""
    told: int = -1
    """The highest limit whose reaching has been told; -1 if none."""


class _Counts(BaseModel, extra="forbid"):
    """Content of the file: the calls of the last days."""

    days: dict[date, _Count] = {}
    """Maps days to their calls, in the order in which they were changed."""


class _LimitInFile(DailyLimit):
    """Counts the calls of all processes of this machine in a file, which is replaced as a whole."""

    def __init__(
        self, action: str, limit: int, zone: ZoneInfo, local: Path | None, name: str
    ) -> None:
        super().__init__(action, limit, zone)
        self._path = layout.calls_file(local, name)
        self._lock = layout.locks_folder(local) / layout.digest(f"calls {name}")

    async def is_first_to_tell(self) -> bool:
        def change(count: _Count) -> bool:
            is_first = count.told < self.limit
            count.told = max(count.told, self.limit)
            return is_first

        return await in_storage_thread(self._change, Day.today(self.zone), change)

    async def _calls(self, day: Day) -> int:
        def look() -> int:
            with _told():
                return self._read().days.get(day.date, _Count()).calls

        return await in_storage_thread(look)

    async def _take(self, day: Day) -> bool:
        def change(count: _Count) -> bool:
            is_allowed = count.calls < self.limit
            count.calls += is_allowed
            return is_allowed

        return await in_storage_thread(self._change, day, change)

    async def _give_back(self, day: Day) -> None:
        def change(count: _Count) -> bool:
            is_counted = count.calls > 0
            count.calls -= is_counted
            return is_counted

        await in_storage_thread(self._change, day, change)

    def _change(self, day: Day, change: Callable[[_Count], bool]) -> bool:
        """Change the count of a day under the lock, and return what ``change`` returns.

        The file is written only if that is true, and is on disk then.
        """
        with _told(), file_lock(self._lock, LOCK_SECONDS):
            days = self._read().days
            count = days.pop(day.date, _Count())
            if not change(count):
                return False
            kept = [*days.items(), (day.date, count)][-DAYS_KEPT:]
            content = _Counts(days=dict(kept)).model_dump_json()
            write_private_file(self._path, content.encode())
            return True

    def _read(self) -> _Counts:
        try:
            return _Counts.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _Counts()
        except ValidationError:
            name = f"{self._path.parent.name}/{self._path.name}"
            raise StorageError(
                "CountUnreadable",
                f"the file {name} of FACEID_STORAGE does not say how many calls were made",
                advice="No call is made without a count: restore the file, or remove it to begin "
                "again from 0.",
            ) from None


@contextmanager
def _told() -> Generator[None]:
    """Raise ``StorageError`` in place of ``OSError``."""
    try:
        yield
    except OSError as error:
        raise StorageError("StorageUnavailable", f"cannot count calls ({error.strerror})") from None


_SCRIPT = f"""
local calls = tonumber(redis.call('HGET', KEYS[1], 'calls') or 0)
local told = tonumber(redis.call('HGET', KEYS[1], 'told') or -1)
local limit = tonumber(ARGV[2])
local function keep(field, value)
  redis.call('HSET', KEYS[1], field, value)
  redis.call('EXPIRE', KEYS[1], {REDIS_KEEPS})
  return 1
end
if ARGV[1] == 'calls' then return calls end
if ARGV[1] == 'take' and calls < limit then return keep('calls', calls + 1) end
if ARGV[1] == 'give back' and calls > 0 then return keep('calls', calls - 1) end
if ARGV[1] == 'tell' and told < limit then return keep('told', limit) end
return 0
"""


class _LimitOnRedis(DailyLimit):
    """Counts the calls of all machines that use the same Redis server."""

    def __init__(self, action: str, limit: int, zone: ZoneInfo, url: str, name: str) -> None:
        super().__init__(action, limit, zone)
        self._url, self._name = url, name

    async def is_first_to_tell(self) -> bool:
        return bool(await self._run("tell", Day.today(self.zone)))

    async def _calls(self, day: Day) -> int:
        return await self._run("calls", day)

    async def _take(self, day: Day) -> bool:
        return bool(await self._run("take", day))

    async def _give_back(self, day: Day) -> None:
        await self._run("give back", day)

    async def _run(self, what: str, day: Day) -> int:
        key = f"faceid:calls:{self._name}:{day.date}"
        try:
            server = Redis.from_url(
                self._url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
            )
            async with server as redis:
                script = redis.register_script(_SCRIPT)
                return int(await script(keys=[key], args=[what, self.limit]))
        except ValueError:
            raise InvalidInput("Configuration", "FACEID_LOCKS: not a valid redis:// URL") from None
        except RedisError as error:
            raise locks_unavailable(error) from None
