"""Attacks, one per file: `attacks/pgd.py` is the attack `pgd`. What they share lives in `attacks/common/`."""
