"""TextDiff: frozen diffusion features fused with the report by cross-attention."""
