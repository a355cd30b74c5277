"""The flows: ``deliver`` takes one request to its verdict."""
