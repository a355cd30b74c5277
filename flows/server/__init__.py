"""Communication with the Prefect server: listing flow runs, and emitting events.

This package imports only ``tasks`` and ``faceid``. Every other package in ``flows`` may import it.
"""
