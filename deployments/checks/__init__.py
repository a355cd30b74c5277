"""What ``faceid doctor`` checks, and how a result of a check looks."""
