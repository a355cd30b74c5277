"""Everything that starts something: the ``faceid`` command, the local stack, the deployments."""
