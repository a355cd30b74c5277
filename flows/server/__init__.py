"""How we talk to Prefect's server: flow runs as it lists them, and events that we send it.

Rests on ``tasks`` alone; every other package in ``flows`` may import it.
"""
