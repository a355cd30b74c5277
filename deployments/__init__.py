"""Entry points: the ``faceid`` command, the local stack and the Prefect deployments."""
