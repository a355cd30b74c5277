"""The peak memory of a batch's process for manifests of different sizes, with the limit lifted."""

from benchmarks.batch import deliver_batch
from benchmarks.measured import stage
from deployments.settings_files import SERVER_SETTINGS

COUNTS = (100, 1_000, 10_000)


def main() -> None:
    peaks: dict[int, float] = {}
    for count in COUNTS:
        with stage(lifted=True, server=SERVER_SETTINGS) as on:
            figures = deliver_batch("IdCardOCRVerification", count, on)
        peaks[count] = figures.peak
        print(
            f"  {count:6,} requests: {figures.peak:4.0f} MB at most, "
            f"{figures.per_second:.1f} requests/s, "
            f"{figures.recorded:,} of {4 * count:,} task runs recorded"
        )
    print(f"  at 10,000 {peaks[10_000] / peaks[1_000]:.2f} times the memory of 1,000")
