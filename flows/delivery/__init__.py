"""The delivery of one request: its steps, its follow-ups and its outcome.

Batches use this package to deliver their requests. It may import ``flows.server`` and ``tasks``.
"""
