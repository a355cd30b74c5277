"""Batches: the runner, its shutdown, results, progress, summary, and the chain of follow-up runs.

This package may import ``flows.delivery`` and ``flows.server``. The flows, ``flows.upkeep`` and
``deployments`` import it.
"""
