"""The checks of ``faceid doctor``."""
