"""Libraries that only some methods need."""

from typing import Any

from ..errors import OptionError


def captum_attr() -> Any:
    """captum's methods.

    Raises:
        OptionError: if it is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise OptionError("this method needs captum: pip install 'attcat[captum]'") from error
    return captum.attr
