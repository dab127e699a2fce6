"""Where the shipped confs lie: in the checkout's ``conf/``, and in the wheel beside this file."""

from pathlib import Path


def shipped(name: str) -> Path:
    """The shipped conf ``name``, such as ``train/digits.yaml``."""
    here = Path(__file__).parent
    folder = here / "conf" if (here / "conf").is_dir() else here.parent / "conf"
    return folder / name
