"""UCTransNet: see README.md beside this file."""
