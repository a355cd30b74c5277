"""Communication with the Prefect server: listing flow runs, and emitting events.

This package depends only on ``tasks`` and ``faceid``. Every other package in ``flows`` may import
it.
"""
