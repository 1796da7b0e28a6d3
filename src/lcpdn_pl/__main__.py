"""``python -m lcpdn_pl`` is ``lcpdn``."""

from lcpdn_pl.cli import main

main()
