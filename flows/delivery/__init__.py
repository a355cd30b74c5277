"""One request, from its files to its verdict: its steps, its follow-ups, how it ends.

May import ``flows.server`` and ``tasks``. A batch delivers its requests with it.
"""
