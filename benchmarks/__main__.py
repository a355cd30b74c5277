"""``make bench [NAME]``: every benchmark, or the one named."""

import sys

from benchmarks import delivery, emulator

BENCHMARKS = {"emulator": emulator.main, "delivery": delivery.main}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n{name}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
