"""LViT: see README.md beside this file."""
