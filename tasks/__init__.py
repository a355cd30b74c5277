"""The steps of a delivery as Prefect tasks, a file each: ``flows.deliver`` shows their order."""
