"""``lcpdn``, also as ``python -m lcpdn_pl``."""

import sys


def main() -> None:
    """Runs :func:`lcpdn_pl.cli.main`, whose imports take seconds: Ctrl-C is quiet in them, too."""
    try:
        from lcpdn_pl.cli import main as run
    except KeyboardInterrupt:
        print("lcpdn: stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
