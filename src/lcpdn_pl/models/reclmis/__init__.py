"""RecLMIS: see README.md beside this file."""
