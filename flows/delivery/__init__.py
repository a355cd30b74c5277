"""The delivery of one request: its steps, its follow-ups and its outcome.

This package may import ``flows.server`` and ``tasks``. Batches use it to deliver their requests.
"""
