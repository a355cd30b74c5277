"""What a Prefect server must know of us: deployments, work pool, block type, automations."""
