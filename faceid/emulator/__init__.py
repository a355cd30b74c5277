"""A local Face ID service and its object store, which behave as the real ones do, expiry included.

``Emulator`` runs one in this process, ``serve`` as a process of its own, ``EmulatorControl`` talks
to one that runs anywhere. What it does is either documented, observed or assumed, and marked so
beside each rule, with the section of the fact sheet on Tencent's Face ID that it comes from.
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
