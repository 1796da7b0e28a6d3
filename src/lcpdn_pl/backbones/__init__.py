"""Frozen backbones behind small protocols: image encoder, text encoder, diffusion features."""
