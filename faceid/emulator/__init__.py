"""An emulator of the Face ID service and its object store, including the expiry of uploads.

``Emulator`` runs an emulator in a thread of this process, ``serve`` runs an emulator until the
process is told to end, and ``EmulatorControl`` controls an emulator in any process. Docstrings and
comments say where a behaviour comes from: "documented" by the vendor, "observed" on the live
service, or "assumed" where neither source says anything.
"""

from faceid.emulator.app import create_app
from faceid.emulator.emulation import Emulation
from faceid.emulator.options import BadOption, EmulatorOptions
from faceid.emulator.remote import ControlError, EmulatorControl
from faceid.emulator.server import CannotListen, Emulator, serve
from faceid.emulator.tickets import STORE_KEYS, StoreKey

__all__ = [
    "STORE_KEYS",
    "BadOption",
    "CannotListen",
    "ControlError",
    "Emulation",
    "Emulator",
    "EmulatorControl",
    "EmulatorOptions",
    "StoreKey",
    "create_app",
    "serve",
]
