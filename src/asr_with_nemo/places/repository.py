"""The repository's address: the one setting that the badges, the notebooks' first cell and the cloud share."""

import tomllib
from pathlib import Path

SETTING = "[project.urls] Repository in pyproject.toml"
# GitHub allows no underscore in an account's name, so no other course can be found there.
PLACEHOLDER = "YOUR_ACCOUNT"
_FILE = Path(__file__).resolve().parents[3] / "pyproject.toml"


def repository_url() -> str:
    """Return the address that the course is cloned from, such as https://github.com/NAME/asr-with-nemo."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def is_placeholder(address: str) -> bool:
    """Return whether an address is still the placeholder.

    Example:
        >>> is_placeholder("https://github.com/YOUR_ACCOUNT/asr-with-nemo")
        True
    """
    return PLACEHOLDER in address
