"""The input block of sequential models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import builder, recorded
from transformers4rec_ext.block.base import BlockBase, BuildableBlock, named_arguments
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.sizes import module_output_size
from transformers4rec_ext.features.base import arguments_of
from transformers4rec_ext.features.lookup import SequenceEmbeddingFeatures
from transformers4rec_ext.features.tabular import TabularFeatures, TagsArgument
from transformers4rec_ext.masking import MaskedItems, MaskSequence, masking_registry
from transformers4rec_ext.schema import Schema, Tags, as_schema
from transformers4rec_ext.tabular.base import TabularAggregationType, TabularTransformationsType
from transformers4rec_ext.utils.padding import check_same_lengths

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SequenceEmbeddingFeatures", "TabularSequenceFeatures"]


class TabularSequenceFeatures(TabularFeatures):
    """Columns to one sequence of vectors: look up, aggregate, project, mask.

    Parameters
    ----------
    continuous_module, categorical_module, pretrained_embedding_module : TabularModule, optional
        At least one.
    projection_module : block, optional
        Applied to the aggregated vectors.
    masking : MaskSequence, optional
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`. With a projection or a masking the
        aggregation is "concat" when not given; without any of the three the block returns a dict.
    schema : Schema, optional
        That of the modules together when not given.

    Examples
    --------
    >>> import torch
    >>> schema = Schema.from_item_column("item_id", num_items=9, max_length=4)
    >>> inputs = TabularSequenceFeatures.from_schema(schema, d_output=8, masking="causal")
    >>> inputs({"item_id": torch.tensor([[5, 7, 9, 0]])}, training=True).shape
    torch.Size([1, 4, 8])
    """

    EMBEDDING_MODULE_CLASS = SequenceEmbeddingFeatures

    def __init__(
        self,
        continuous_module: Any = None,
        categorical_module: Any = None,
        pretrained_embedding_module: Any = None,
        projection_module: Any = None,
        masking: MaskSequence | None = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        if aggregation is None and (projection_module is not None or masking is not None):
            aggregation = "concat"
        super().__init__(
            continuous_module,
            categorical_module,
            pretrained_embedding_module,
            pre=pre,
            post=post,
            aggregation=aggregation,
            schema=schema,
        )
        if isinstance(projection_module, BuildableBlock):
            projection_module = _build_projection(
                projection_module, self.post_output_size(self.columns_size(None))
            )
        self.projection_module = projection_module
        self.set_masking(masking)

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
        projection: nn.Module | BuildableBlock | None = None,
        d_output: int | None = None,
        masking: str | MaskSequence | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the input block of the columns of ``schema``.

        Parameters
        ----------
        schema : Schema
        continuous_tags, categorical_tags, pretrained_embeddings_tags : tag or tags, optional
        aggregation, automatic_build, max_sequence_length : optional
        continuous_projection, continuous_soft_embeddings : optional
            See :meth:`TabularFeatures.from_schema`.
        projection : block, optional
            Applied to the aggregated vectors.
        d_output : int, optional
            Short for ``projection=MLPBlock([d_output])``.
        masking : str or MaskSequence, optional
            A name, such as "causal", or the masking itself.
        **kwargs
            Arguments of the column blocks, of their ``from_schema``, and of the named masking.

        Raises
        ------
        ValueError
            As :meth:`TabularFeatures.from_schema`; if both ``d_output`` and ``projection`` are
            given, or a masking and no categorical column is the item id.
        TypeError
            If an argument is nobody's.
        """
        if d_output is not None:
            if projection is not None:
                raise ValueError("You cannot specify both d_output and projection at the same time")
            projection = MLPBlock([_checks.integer("from_schema", "d_output", d_output, minimum=1)])
        for_columns, for_masking = _split_arguments(masking, kwargs)
        if aggregation is None and (projection is not None or masking is not None):
            aggregation = "concat"
        output = super().from_schema(
            schema,
            continuous_tags=continuous_tags,
            categorical_tags=categorical_tags,
            pretrained_embeddings_tags=pretrained_embeddings_tags,
            aggregation=aggregation,
            automatic_build=automatic_build,
            max_sequence_length=max_sequence_length,
            continuous_projection=continuous_projection,
            continuous_soft_embeddings=continuous_soft_embeddings,
            **for_columns,
        )
        if projection is not None:
            output.projection_module = _build_projection(projection, output.output_size())
        if masking is not None:
            output.set_masking(_make_masking(masking, output, for_masking, schema))
        return output

    @recorded
    def project_continuous_features(self, dimensions: int | Sequence[int]) -> Self:
        """Put dense layers of widths ``dimensions`` over all continuous columns together."""
        return super().project_continuous_features(dimensions)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module files a module under the very name assigned to, before any property is asked;
        # saved weights expect the masking under "_masking".
        super().__setattr__("_masking" if name == "masking" else name, value)

    @property
    def masking(self) -> MaskSequence | None:
        """The masking applied to the vectors, or None."""
        return self._masking

    @recorded
    def set_masking(self, value: MaskSequence | None) -> None:
        """Use another masking from now on, or None."""
        if value is not None and not isinstance(value, MaskSequence):
            raise type_error(
                type(self).__name__, "masking", "be a MaskSequence", type(value).__name__
            )
        if value is not None and self.item_id is None:
            raise ValueError("For masking a categorical_module is required including an item_id.")
        self._masking = value

    @property
    def item_id(self) -> str | None:
        """The name of the column of item ids."""
        return getattr(self.categorical_module, "item_id", None)

    @property
    def item_embedding_table(self) -> nn.Module | None:
        """The embedding table of the items."""
        return getattr(self.categorical_module, "item_embedding_table", None)

    @property
    def max_sequence_length(self) -> int | None:
        """The longest session, if it is known."""
        sizes = self.columns_size(self.input_size) or {}
        known = [size[1] for size in sizes.values() if len(size) == 3 and size[1] > 0]
        return max(known, default=None)

    def check_lengths(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise ValueError if ragged columns of a batch differ in the lengths of their rows.

        A model calls this before it pads; of tensors on the CPU only, where it waits for nothing.
        """
        if self.schema is not None:
            check_same_lengths(type(self).__name__, inputs, self.schema.column_names)

    def masked_items(
        self, inputs: Mapping[str, Tensor], training: bool = False, testing: bool = False
    ) -> MaskedItems | None:
        """Return the item ids of a batch, what is seen and what is asked, as values.

        A head makes them once per call and hands them to this block's ``forward`` and to the
        tasks, so that nothing of a batch has to be read back from an attribute.

        Returns
        -------
        MaskedItems or None
            None without a masking, and for a masking whose ``forward`` was written before there
            was ``masked=``: it alone knows what it hides.
        """
        if self.masking is None or "masked" not in named_arguments(self.masking):
            return None
        return self.masking.mask(self._item_ids(inputs), training=training, testing=testing)

    def __call__(  # type: ignore[override]  # the flags come first, as in forward
        self,
        inputs: Any,
        training: bool = False,
        testing: bool = False,
        masked: MaskedItems | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``pre``, ``forward`` and, of a dict of columns, ``post`` and the aggregation."""
        # From the ids as they came: what `pre` does to the inputs is not what is to be predicted.
        if masked is None:
            masked = self.masked_items(inputs, training=training, testing=testing)
        return super().__call__(inputs, training=training, testing=testing, masked=masked, **kwargs)

    def forward(
        self,
        inputs: Any,
        training: bool = False,
        testing: bool = False,
        masked: MaskedItems | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the vectors [B, T, D] of a batch; the flags choose what the masking hides.

        Parameters
        ----------
        inputs : mapping from column name to tensor
            Ids int64 and numbers [B, T], padded with 0, or [B] for the whole session.
        training, testing : bool
            Neither: inference. Both: training.
        masked : MaskedItems, optional
            What :meth:`masked_items` gave for this batch.
        """
        outputs = super().forward(inputs, training=training, testing=testing)
        if self.masking is None and self.projection_module is None:
            return outputs
        outputs = self.post_forward(outputs)
        if isinstance(outputs, Mapping):
            raise value_error(
                type(self).__name__, "aggregation", "be set with a masking or projection", None
            )
        if self.projection_module is not None:
            outputs = self.projection_module(outputs)
        if self.masking is None:
            return outputs
        flags = {"training": training, "testing": testing}
        if masked is None:
            return self.masking(outputs, item_ids=self._item_ids(inputs), **flags)
        return self.masking(outputs, masked.item_ids, **flags, masked=masked)

    def _item_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        item_ids: Tensor = self.categorical_module.item_ids(inputs)
        return item_ids

    def columns_size(self, input_size: Any) -> Any:
        """Return the sizes of the columns before ``post``; None where they are unknown."""
        return super().forward_output_size(input_size)

    def forward_output_size(self, input_size: Any) -> Any:
        """Return [-1, T, D] with a masking or projection, else one such size per column."""
        size = self.columns_size(input_size)
        if self.masking is None and self.projection_module is None:
            return size
        size = self.post_output_size(size)
        if self.projection_module is None:
            return size
        return module_output_size(self.projection_module, size)


def _split_arguments(
    masking: str | MaskSequence | None, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the columns and those of the masking; some belong to both."""
    if not isinstance(masking, str):
        return kwargs, {}
    own = set(inspect.signature(masking_registry.parse(masking)).parameters) - {"hidden_size"}
    of_both = arguments_of(SequenceEmbeddingFeatures)
    return (
        {name: value for name, value in kwargs.items() if name not in own or name in of_both},
        {name: value for name, value in kwargs.items() if name in own},
    )


def _build_projection(projection: Any, size: Any) -> BlockBase:
    if not isinstance(projection, (BuildableBlock, BlockBase)):
        raise type_error(
            "TabularSequenceFeatures",
            "projection",
            "be a block",
            type(projection).__name__,
            "Wrap a module: Block(module, output_size).",
        )
    _check_known("projection and d_output", size)
    return projection.build(size)


def _make_masking(
    masking: str | MaskSequence,
    inputs: TabularSequenceFeatures,
    kwargs: dict[str, Any],
    schema: Any,
) -> MaskSequence:
    if inputs.item_id is None:
        raise ValueError(
            "For masking a categorical_module is required including an item_id. "
            f"{_item_id_hint(as_schema(schema, 'TabularSequenceFeatures'))}"
        )
    if not isinstance(masking, str):
        return masking
    size = inputs.output_size()
    _check_known("masking", size)
    masking_class: type[MaskSequence] = masking_registry.parse(masking)
    return masking_class(hidden_size=size[-1], **kwargs)


def _item_id_hint(schema: Schema) -> str:
    tagged = schema.select_by_tag(Tags.ITEM_ID)
    if not len(tagged):
        return f"Tag one of the columns {schema.column_names} as item_id and categorical."
    column = next(iter(tagged))
    if column.int_domain is None:
        return f"The column {column.name!r} is tagged item_id but has no int_domain."
    return (
        f"The column {column.name!r} is tagged item_id, but categorical_tags do not select it: "
        f"its tags are {list(column.tags)}."
    )


def _check_known(what: str, size: Any) -> None:
    if size is None or isinstance(size, Mapping):
        raise value_error(
            "TabularSequenceFeatures",
            what,
            "follow columns of known sizes, aggregated",
            size,
            "Leave automatic_build=True, or build the parts yourself.",
        )
