"""``make bench``: every benchmark but the large one, or those named, in processes of their own."""

import subprocess
import sys

from benchmarks import batch, delivery, emulator, memory, singles

BENCHMARKS = {
    "batch": batch.main,
    "singles": singles.main,
    "emulator": emulator.main,
    "delivery": delivery.main,
    "large": memory.main,
}


def main() -> None:
    names = sys.argv[1:] or [name for name in BENCHMARKS if name != "large"]
    if len(names) == 1:
        print(f"\n{names[0]}", flush=True)
        BENCHMARKS[names[0]]()
        return
    for name in names:
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)


if __name__ == "__main__":
    main()
