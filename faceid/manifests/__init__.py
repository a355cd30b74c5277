"""Manifests: reading and checking them line by line, and keeping a snapshot while a batch runs.

Builds on ``faceid.validation``, which checks single requests, and on ``faceid.files``.
"""
