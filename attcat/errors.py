"""Every error that AttCAT raises on purpose.

    AttCATError
    ├── LoadError               no model can be loaded from the folder or hub id
    ├── UnsupportedModelError   no adapter for this model, or its head is not one that can be explained
    ├── InputError              the text, picture or model arguments cannot be explained as given
    │   └── TooLongError        the text is longer than the model takes
    ├── ProcessorError          tokenizer, image processor or transform does not fit the model
    ├── TargetError             the class that was asked for does not exist
    ├── OptionError             a method, rule or option that does not exist
    └── CaptureError            the forward pass did not show what the method needs

A message says what was given, what was expected, and the next thing to try.
"""


class AttCATError(Exception):
    """Base class: catch this to catch everything that AttCAT raises on purpose."""


class LoadError(AttCATError, OSError):
    """No model can be loaded from the folder or hub id."""


class UnsupportedModelError(AttCATError, TypeError):
    """No adapter serves this model, or its head is not one that can be explained."""


class InputError(AttCATError, ValueError):
    """The text, picture or model arguments cannot be explained as given."""


class TooLongError(InputError):
    """The text has more tokens than the model takes."""


class ProcessorError(AttCATError, ValueError):
    """The tokenizer, image processor or transform does not fit the model."""


class TargetError(AttCATError, ValueError):
    """The class that was asked for does not exist."""


class OptionError(AttCATError, ValueError):
    """A method, rule or option that does not exist."""


class CaptureError(AttCATError, RuntimeError):
    """The forward pass did not show what the method needs."""
