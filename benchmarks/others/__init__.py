"""Alternative implementations of a batch, with which the batch benchmark compares.

Each is a script that delivers ``COUNT`` requests of ``IdCardOCRVerification``, which have one
resource: ``python -m benchmarks.others.NAME FILE COUNT``. The endpoint and the keys come from the
environment.
"""
