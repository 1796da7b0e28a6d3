"""MedSegDiff: see README.md beside this file."""
