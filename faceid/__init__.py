"""Tencent Cloud Face ID in Python: tickets, uploads and target actions, with no Prefect in it."""

__version__ = "0.1.0"
