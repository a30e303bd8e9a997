"""`python -m harness`, and the command `harness`: signals are seen to before anything that takes time is imported."""

from __future__ import annotations

from harness.process import signals

signals.install()


def main() -> None:
    """The command line."""
    from harness import cli

    cli.main()


if __name__ == "__main__":
    main()
