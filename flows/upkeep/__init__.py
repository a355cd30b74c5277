"""What is done about requests when nobody delivers them: dead runs found, runs and lines erased.

May import ``flows.server`` and ``tasks``.
"""
