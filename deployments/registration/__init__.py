"""Registration with a Prefect server: deployments, work pool, block type and automations."""
