"""Access to files: the roots that locations may point into, resources, and ``http(s)`` links.

This package does not depend on requests or manifests.
"""
