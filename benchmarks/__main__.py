"""Run the named benchmarks, by default all but the long ones, each in its own process."""

import subprocess
import sys

from benchmarks import batch, delivery, emulator, memory, singles, steady

BENCHMARKS = {
    "batch": batch.main,
    "singles": singles.main,
    "emulator": emulator.main,
    "delivery": delivery.main,
    "large": memory.main,
    "steady": steady.main,
}
LONG = ("large", "steady")


def main() -> None:
    names = sys.argv[1:] or [name for name in BENCHMARKS if name not in LONG]
    if len(names) == 1:
        print(f"\n{names[0]}", flush=True)
        BENCHMARKS[names[0]]()
        return
    for name in names:
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)


if __name__ == "__main__":
    main()
