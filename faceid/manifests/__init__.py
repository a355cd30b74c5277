"""Many requests: manifests read and checked line by line, and kept while a batch is at work.

Rests on ``faceid.validation``, which checks one request, and on ``faceid.files``.
"""
