"""Other ways to do what a batch does, as people write them: what the table compares with.

Each is a script that delivers ``COUNT`` requests of one resource, ``IdCardOCRVerification``:
``python -m benchmarks.others.NAME FILE COUNT``. The service and its keys come from the environment.
"""
