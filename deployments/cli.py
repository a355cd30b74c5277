"""The commands that run flows, or read what they kept.

A module of commands each: importing one adds it to the ``faceid`` command. Prefect is imported
inside the commands: it takes seconds, and it reads its home and its API's URL from the environment
when it is imported.
"""

from deployments import (
    command_batch,
    command_deliver,
    command_demo,
    command_doctor,
    command_forget,
    command_records,
    command_results,
    command_up,
)

__all__ = [
    "command_batch",
    "command_deliver",
    "command_demo",
    "command_doctor",
    "command_forget",
    "command_records",
    "command_results",
    "command_up",
]
