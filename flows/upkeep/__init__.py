"""Upkeep: detects dead flow runs, and erases the flow runs and result lines of requests.

This package imports ``flows.server``, ``flows.batch.results``, ``tasks`` and ``faceid``.
"""
