"""Many requests: the runner, its shutdown, results, progress, summary, and the runs that go on.

May import ``flows.delivery`` and ``flows.server``, and nothing imports it but flows.
"""
