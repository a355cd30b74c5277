"""A fault of the product, to show that the books of a chaos run notice it.

Python imports this module first of all if its folder is on ``PYTHONPATH``. The first save of a
verdict that any process of the run makes is dropped, and looks to the product as if it had worked.
"""

import os
from pathlib import Path

from tasks.state.record_store import RecordStore
from tasks.state.records import Record

DROPPED = Path(os.environ["FACEID_SPILL"]).with_name("dropped")

save = RecordStore._save  # pyright: ignore[reportPrivateUsage]


def drop_first(self: RecordStore, record: Record) -> None:
    if record.verdict is not None:
        try:
            DROPPED.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            return
    save(self, record)


RecordStore._save = drop_first  # pyright: ignore[reportPrivateUsage]
