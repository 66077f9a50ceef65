"""One file an area. A row is a function with @row; see tests/behaviours/row.py."""
