"""The ``faceid`` commands that need Prefect, and what they have in common."""
