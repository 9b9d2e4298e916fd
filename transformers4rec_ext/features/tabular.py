"""The input block of models without a time dimension, and the base of the sequential one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._recipe import builder, recorded
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.base import (
    arguments_of,
    built,
    known_arguments,
    refuse_unknown,
    refuse_unknown_columns,
)
from transformers4rec_ext.features.continuous import ContinuousFeatures
from transformers4rec_ext.features.embedding import EmbeddingFeatures, SoftEmbeddingFeatures
from transformers4rec_ext.features.pretrained import PretrainedEmbeddingFeatures
from transformers4rec_ext.schema import Schema, Tag, Tags, as_schema, tag_names
from transformers4rec_ext.tabular.base import (
    AsTabular,
    MergeTabular,
    TabularAggregationType,
    TabularBlock,
    TabularTransformationsType,
)

if TYPE_CHECKING:
    from typing_extensions import Self

LOG = logging.getLogger("transformers4rec_ext")

TagsArgument = Tag | Sequence[Tag] | None


class TabularFeatures(MergeTabular):
    """Continuous, categorical and pretrained columns: a batch to one dict of vectors.

    Parameters
    ----------
    continuous_module, categorical_module, pretrained_embedding_module : TabularModule, optional
        At least one.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional
        That of the modules together when not given.

    Examples
    --------
    >>> import torch
    >>> schema = Schema.from_item_column("item_id", num_items=9)
    >>> block = TabularFeatures.from_schema(schema, embedding_dim_default=4)
    >>> block({"item_id": torch.tensor([[5, 7, 0], [9, 0, 0]])})["item_id"].shape
    torch.Size([2, 4])
    """

    CONTINUOUS_MODULE_CLASS: Any = ContinuousFeatures
    EMBEDDING_MODULE_CLASS: Any = EmbeddingFeatures
    SOFT_EMBEDDING_MODULE_CLASS: Any = SoftEmbeddingFeatures
    PRETRAINED_EMBEDDING_MODULE_CLASS: Any = PretrainedEmbeddingFeatures

    is_input = True

    def __init__(
        self,
        continuous_module: Any = None,
        categorical_module: Any = None,
        pretrained_embedding_module: Any = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        # The names are part of the keys of saved weights.
        named = {
            "continuous_module": continuous_module,
            "categorical_module": categorical_module,
            "pretrained_embedding_module": pretrained_embedding_module,
        }
        to_merge = {name: module for name, module in named.items() if module is not None}
        if not to_merge:
            raise value_error(
                type(self).__name__, "modules", f"be at least one of {list(named)}", "none"
            )
        super().__init__(to_merge, pre=pre, post=post, aggregation=aggregation, schema=schema)

    @classmethod
    @builder
    def from_schema(  # type: ignore[override]  # upstream's builders differ
        cls,
        schema: Schema,
        continuous_tags: TagsArgument = (Tags.CONTINUOUS,),
        categorical_tags: TagsArgument = (Tags.CATEGORICAL,),
        pretrained_embeddings_tags: TagsArgument = (Tags.EMBEDDING,),
        aggregation: TabularAggregationType | None = None,
        automatic_build: bool = True,
        max_sequence_length: int | None = None,
        continuous_projection: int | Sequence[int] | None = None,
        continuous_soft_embeddings: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Return the input block of the columns of ``schema``.

        Parameters
        ----------
        schema : Schema
        continuous_tags, categorical_tags, pretrained_embeddings_tags : tag or tags, optional
            Columns with these tags are taken as numbers, embedded, and taken as vectors; None
            leaves a kind out.
        aggregation : str or TabularAggregation, optional
            Makes one tensor of the columns.
        automatic_build : bool
            Whether to infer sizes from the schema.
        max_sequence_length : int, optional
            The T of :meth:`output_size`; that of the schema when not given.
        continuous_projection : int or sequence of int, optional
            Widths of dense layers over all continuous columns together.
        continuous_soft_embeddings : bool
            Whether to make vectors of numbers by :class:`SoftEmbeddingFeatures`.
        **kwargs
            Arguments of the column blocks and of their ``from_schema``, ``pre`` and ``post``
            included: each takes its own; and ``batch_size``, the B of :meth:`output_size`.

        Raises
        ------
        ValueError
            If no column is selected, one is selected twice, an argument names a column that is
            not there, or there is nothing to project.
        TypeError
            If an argument is none of a column block's.
        """
        function = f"{cls.__name__}.from_schema"
        schema = as_schema(schema, function)
        kinds = {
            "continuous_module": (
                cls.SOFT_EMBEDDING_MODULE_CLASS
                if continuous_soft_embeddings
                else cls.CONTINUOUS_MODULE_CLASS
            ),
            "categorical_module": cls.EMBEDDING_MODULE_CLASS,
            "pretrained_embedding_module": cls.PRETRAINED_EMBEDDING_MODULE_CLASS,
        }
        own = [arguments_of(kind.from_schema) for kind in kinds.values()]
        refuse_unknown(function, kwargs, known_arguments().union(*own))
        all_tags = (continuous_tags, categorical_tags, pretrained_embeddings_tags)
        selected = _select(function, schema, dict(zip(kinds, all_tags, strict=True)))
        modules = _column_modules(function, kinds, selected, max_sequence_length, kwargs)
        if continuous_projection is None:
            output = cls(**modules, aggregation=aggregation)
            return built(output, schema, max_sequence_length, automatic_build, kwargs)
        if not automatic_build:
            raise ValueError("Continuous feature projection can only be done with automatic_build")
        output = built(cls(**modules), schema, max_sequence_length, automatic_build, kwargs)
        output.project_continuous_features(continuous_projection)
        # of the columns there are now, not of the numbers, whose width is 1
        output._set_step("aggregation", aggregation)
        TabularBlock.build(output, output.input_size, schema=schema)
        return output

    @recorded
    def project_continuous_features(self, mlp_layers_dims: int | Sequence[int]) -> Self:
        """Put dense layers over all continuous columns together; return the block.

        Their output is the column ``continuous_projection``.

        Parameters
        ----------
        mlp_layers_dims : int or sequence of int
            The widths of the layers.
        """
        continuous = self.continuous_module
        if continuous is None:
            raise value_error(
                type(self).__name__,
                "continuous_projection",
                "be left out where there is no continuous column",
                mlp_layers_dims,
            )
        continuous.aggregation = "concat"
        projected = SequentialBlock(
            continuous, MLPBlock(mlp_layers_dims), AsTabular("continuous_projection")
        )
        self.to_merge["continuous_module"] = projected
        return self

    def check_ids(self, inputs: Mapping[str, Any]) -> None:
        """Raise ValueError if an id of a batch that is on the CPU has no row in its table."""
        if self.pre is None and isinstance(self.categorical_module, EmbeddingFeatures):
            self.categorical_module.check_ids(inputs)

    def _module(self, name: str) -> Any:
        return dict(self.to_merge.items()).get(name)

    @property
    def continuous_module(self) -> Any:
        """The block of the continuous columns, or None."""
        return self._module("continuous_module")

    @property
    def categorical_module(self) -> Any:
        """The embeddings of the categorical columns, or None."""
        return self._module("categorical_module")

    @property
    def pretrained_module(self) -> Any:
        """The block of the pretrained vectors, or None."""
        return self._module("pretrained_embedding_module")


def _select(function: str, schema: Schema, tags: Mapping[str, TagsArgument]) -> dict[str, Schema]:
    """Return the columns of each module; ValueError if there are none, or one is in two."""
    parts = {module: schema.select_by_tag(tag) for module, tag in tags.items() if tag}
    selected = {module: part for module, part in parts.items() if len(part)}
    if not selected:
        wanted = [name for tag in tags.values() for name in tag_names(tag)]
        raise value_error(
            function,
            "schema",
            f"have a column tagged {' or '.join(wanted) or 'by one of the tags'}",
            f"columns {schema.column_names}",
        )
    names = [name for part in selected.values() for name in part.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise value_error(
            function,
            "schema",
            "have columns of one kind each, of continuous, categorical and embedding",
            {name: list(schema[name].tags) for name in twice},
            "Take one of the tags away, or choose by continuous_tags and categorical_tags.",
        )
    return selected


def _column_modules(
    function: str,
    kinds: Mapping[str, Any],
    selected: Mapping[str, Schema],
    max_sequence_length: int | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the modules of the selected columns, each made with the arguments that it takes."""
    arguments = dict(arguments)
    initializers = arguments.pop("embeddings_initializers", None) or {}
    names = [name for part in selected.values() for name in part.column_names]
    refuse_unknown_columns(function, "embeddings_initializers", initializers, names)
    modules = {}
    for name, part in selected.items():
        given = {
            "automatic_build": False,  # all are built together, for the sizes of all columns
            "max_sequence_length": max_sequence_length,
            "embeddings_initializers": {c: f for c, f in initializers.items() if c in part},
        }
        taken = arguments_of(kinds[name].from_schema)
        given = {argument: value for argument, value in given.items() if argument in taken}
        modules[name] = kinds[name].from_schema(part, **arguments, **given)
    _check_made(function, selected, modules)
    return modules


def _check_made(function: str, selected: Mapping[str, Schema], modules: Mapping[str, Any]) -> None:
    """Raise if no module came of the columns; tell of columns that are in none."""
    categorical = selected.get("categorical_module", Schema())
    left_out = [column.name for column in categorical if not column.is_categorical]
    if all(module is None for module in modules.values()):
        raise value_error(
            function,
            "schema",
            "have an int_domain on its categorical columns",
            f"columns {left_out} without",
        )
    if left_out:
        LOG.warning(
            "%s leaves out the columns %s: they are tagged categorical but have no int_domain",
            function,
            left_out,
        )
