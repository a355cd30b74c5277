"""The checks of ``faceid doctor``: of the Prefect server, and of what deliveries need."""
