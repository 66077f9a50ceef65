"""The slices of the learning loop; heavy imports live in tasks/ and */work.py, which run in worker processes."""
