"""The ``faceid`` commands that run flows, or read what they kept: a module each."""
