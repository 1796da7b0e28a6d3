"""C2FVL: see README.md beside this file."""
