"""What runs keep and share about requests: records, claims, locks, rates, and the storage.

The steps in ``tasks`` import this package; it must not import them.
"""
