"""Checks of values that come from configs and files."""


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float; booleans are not.

    Example:
        >>> is_number(1.5), is_number(True), is_number("1")
        (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Return whether a value is an int; booleans are not.

    Example:
        >>> is_whole(2), is_whole(2.0), is_whole(True)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def hydra_value(text: str) -> str:
    """Return a text as the value of a Hydra override, in quotes if Hydra would read it as something else.

    Example:
        >>> hydra_value("data/mine"), hydra_value("my data")
        ('data/mine', "'my data'")
    """
    if text.isascii() and not set(text) & set(" ,={}[]()'\"\\:&$"):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
