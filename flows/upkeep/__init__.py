"""Upkeep: detects dead flow runs, and erases the flow runs and result lines of requests.

This package may import ``flows.server`` and ``tasks``, and ``flows.batch.results``.
"""
