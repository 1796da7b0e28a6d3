"""MGCC: see README.md beside this file."""
