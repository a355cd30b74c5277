"""Alternative implementations of a batch, which the batch benchmark measures for comparison.

Each is a script that delivers ``COUNT`` requests of ``IdCardOCRVerification``, which have one
resource: ``python -m benchmarks.others.NAME FILE COUNT``. The endpoint and the keys come from the
environment.
"""
