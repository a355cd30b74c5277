"""The Prefect flows ``deliver``, ``deliver-batch``, ``sweep`` and ``forget``."""
