"""The steps of a delivery as Prefect tasks, one per file, called by ``flows.delivery.run``."""
