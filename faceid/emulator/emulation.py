"""The state of an emulator, which the API, the object store and the control calls share."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from faceid.actions import CREATE_UPLOAD_URL
from faceid.emulator.clock import Clock
from faceid.emulator.cos_signing import presigned_query
from faceid.emulator.faults import STORE_OPS, Faults
from faceid.emulator.journal import Journal
from faceid.emulator.objects import Objects
from faceid.emulator.options import EmulatorOptions
from faceid.emulator.rates import Rates
from faceid.emulator.tickets import STORE_KEYS, StoreKey, object_url


@dataclass
class Emulation:
    """The state of an emulator."""

    options: EmulatorOptions
    """The options that the emulator was started with."""
    folder: Path
    """The folder of the objects."""
    address: tuple[str, int] = ("127.0.0.1", 0)
    """Host and port at which the emulator can reach itself."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server shuts down, or is reset, which begins another event."""

    def __post_init__(self) -> None:
        options = self.options
        self.accept_key_of(options)
        self.actions = options.target_actions()
        self.clock = Clock(options.skew)
        self.journal = Journal()
        self.rates = Rates(self.actions, options.rates)
        self.objects = Objects(self.folder, self.clock)
        self.faults = Faults(
            ops=(CREATE_UPLOAD_URL, *self.actions, *STORE_OPS),
            verdicts=[name for name, action in self.actions.items() if action.reading.passed],
        )

    def accept_key_of(self, options: EmulatorOptions) -> None:
        """Make the key in these options the account's only key."""
        self.secret_id = options.secret_id
        self.secret_key = options.secret_key.get_secret_value()
        self.token = options.token.get_secret_value()
        own = StoreKey(self.secret_id, self.secret_key, region=None)
        self.store_keys = {key.secret_id: key for key in (*STORE_KEYS.values(), own)}

    def reset(self) -> None:
        """Restore the initial state, and remove all objects, even those that were there before.

        Requests that a fault delays are cut off: they belong to what was before.
        """
        self.ending.set()
        self.ending = asyncio.Event()
        self.accept_key_of(self.options)
        self.clock.reset()
        self.journal.clear()
        self.rates.reset()
        self.objects.clear()
        self.faults.clear()

    def presigned_url(
        self, method: str, host: str, key: str, *, region: str | None, start: int
    ) -> str:
        """Return a presigned URL of the object with this key.

        The URL is valid for ``method`` and for one window from ``start`` (Unix seconds) on. It is
        signed with the key pair of ``region``.
        """
        pair = STORE_KEYS.get(region or "", next(iter(STORE_KEYS.values())))
        query = presigned_query(
            method,
            host,
            f"/{key}",
            secret_id=pair.secret_id,
            secret_key=pair.secret_key,
            start=start,
            end=start + self.options.window,
        )
        return object_url(host, key, query)
