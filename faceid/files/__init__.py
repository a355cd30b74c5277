"""Where files may lie, and how they are read: roots, resources, links.

Knows errors, models and settings, and nothing of requests that consist of files.
"""
