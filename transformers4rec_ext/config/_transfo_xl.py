"""The name of an architecture that transformers has given up."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers4rec_ext.config._base import T4RecConfig, transformer_registry


@transformer_registry.register_with_multiple_names("transfo-xl")
class TransfoXLConfig(T4RecConfig):
    """Transformer-XL, which transformers 5 no longer has; making one raises ImportError.

    Use :class:`~transformers4rec_ext.XLNetConfig`: it has the same relative positions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse()

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ImportError."""
        _refuse()


def _refuse() -> NoReturn:
    raise ImportError(
        "TransfoXLConfig: transformers 5 no longer has Transformer-XL. Use XLNetConfig.build(...) "
        'with masking="clm", which has the same relative positions.'
    )
