"""The web pages and the small server for them. A client of the public API and of nothing else."""
