"""`python -m harness`, and the command `harness`: signal handlers are installed before any slow import."""

from __future__ import annotations

from harness.process import signals

signals.install()


def main() -> None:
    """Runs the command line."""
    from harness import cli

    cli.main()


if __name__ == "__main__":
    main()
