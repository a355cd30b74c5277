"""The ``faceid`` commands that need Prefect, one module for each or for a closely related pair."""
