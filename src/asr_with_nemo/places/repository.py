"""Where the course is to be had: the one setting that the badges, the notebooks' first cell and the cloud share."""

import tomllib
from pathlib import Path

SETTING = "[project.urls] Repository in pyproject.toml"
# With an underscore, which no account's name may have: nobody can put something else there.
PLACEHOLDER = "YOUR_ACCOUNT"
_FILE = Path(__file__).resolve().parents[3] / "pyproject.toml"


def repository_url() -> str:
    """The address that the course is cloned from, such as https://github.com/NAME/asr-with-nemo."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def is_placeholder(address: str) -> bool:
    """Whether nobody has put an address there yet."""
    return PLACEHOLDER in address
