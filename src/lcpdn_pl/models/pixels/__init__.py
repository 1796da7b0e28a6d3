"""pixels: a floor that every method has to beat."""
