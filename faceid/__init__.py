"""Python library for Tencent Cloud Face ID: upload tickets, uploads and target actions."""

__version__ = "0.1.0"
