"""LCPDN: see README.md beside this file."""
