"""What is kept and shared about requests: records, claims, locks, rates, and the storage of it all.

Knows no step: the steps in ``tasks`` import this package, and never the other way round.
"""
