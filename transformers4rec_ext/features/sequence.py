"""The input block of sequential models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.block.base import BlockBase, BuildableBlock, named_arguments
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.base import AGGREGATIONS, InputBlock, check_aggregation
from transformers4rec_ext.features.embedding import SequenceEmbeddingFeatures
from transformers4rec_ext.masking import MaskedItems, MaskSequence, masking_registry
from transformers4rec_ext.schema import Schema, Tag, Tags, as_schema


class TabularSequenceFeatures(InputBlock):
    """Columns to one sequence of vectors: look up, aggregate, project, mask.

    Parameters
    ----------
    categorical_module : SequenceEmbeddingFeatures
        The embeddings of the categorical columns, the item ids among them.
    projection_module : BlockBase, optional
        Applied to the aggregated vectors.
    masking : MaskSequence, optional
    aggregation : {"concat", "element-wise-sum"}, optional
        How the vectors of several columns become one. Without it the block returns a dict.
    schema : Schema, optional

    Examples
    --------
    >>> schema = Schema.from_item_column("item_id", num_items=9, max_length=4)
    >>> inputs = TabularSequenceFeatures.from_schema(schema, d_output=8, masking="causal")
    >>> inputs({"item_id": torch.tensor([[5, 7, 9, 0]])}, training=True).shape
    torch.Size([1, 4, 8])
    """

    def __init__(
        self,
        *,
        categorical_module: SequenceEmbeddingFeatures,
        projection_module: BlockBase | None = None,
        masking: MaskSequence | None = None,
        aggregation: str | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(schema)
        # One entry per kind of column; the name is part of the keys of saved weights.
        self.to_merge = nn.ModuleDict({"categorical_module": categorical_module})
        self.aggregation = check_aggregation(type(self).__name__, aggregation)
        self.projection_module = projection_module
        self.set_masking(masking)

    @classmethod
    def from_schema(
        cls,
        schema: Schema,
        continuous_tags: Tag | tuple[Tag, ...] | None = (Tags.CONTINUOUS,),
        categorical_tags: Tag | tuple[Tag, ...] | None = (Tags.CATEGORICAL,),
        aggregation: str | None = None,
        max_sequence_length: int | None = None,
        projection: nn.Module | BuildableBlock | None = None,
        d_output: int | None = None,
        masking: str | MaskSequence | None = None,
        **kwargs: Any,
    ) -> TabularSequenceFeatures:
        """Return the input block of the columns of ``schema``.

        Parameters
        ----------
        schema : Schema
        continuous_tags : tag or tags, optional
            Columns with these tags are refused for now; None leaves them out.
        categorical_tags : tag or tags, optional
            Columns with these tags are embedded.
        aggregation : {"concat", "element-wise-sum"}, optional
            "concat" if a projection, ``d_output`` or masking asks for one tensor.
        max_sequence_length : int, optional
            The T of :meth:`output_size`; the schema's ``max_length`` when not given.
        projection : block, optional
            Applied to the aggregated vectors.
        d_output : int, optional
            Short for ``projection=MLPBlock([d_output])``.
        masking : str or MaskSequence, optional
            A name, such as "causal", or the masking itself.
        **kwargs
            Arguments of ``SequenceEmbeddingFeatures.from_schema`` and of the named masking.

        Raises
        ------
        ValueError
            If continuous columns are selected, no categorical one is, or arguments contradict.
        """
        schema = as_schema(schema, cls.__name__)
        if d_output and projection is not None:
            raise ValueError("You cannot specify both d_output and projection at the same time")
        for_embedding, for_masking = _split_arguments(masking, kwargs)
        selected = _select(schema, continuous_tags, categorical_tags)
        length = max_sequence_length or _longest(selected)
        embedding = SequenceEmbeddingFeatures.from_schema(
            selected, max_sequence_length=length, **for_embedding
        )
        if embedding is None:
            raise value_error(
                cls.__name__,
                "schema",
                "have an int_domain on its categorical columns",
                f"columns {selected.column_names}",
            )
        if masking is not None and embedding.item_id is None:
            raise ValueError("For masking a categorical_module is required including an item_id.")
        if aggregation is None and (projection is not None or masking is not None or d_output):
            aggregation = "concat"
        output = cls(categorical_module=embedding, aggregation=aggregation, schema=selected)
        if d_output:
            projection = MLPBlock([d_output])
        if projection is not None:
            output.projection_module = _build_projection(projection, output.output_size())
        output.set_masking(_make_masking(masking, output, for_masking))
        return output

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module files a module under the very name assigned to, before any property is asked;
        # saved weights expect the masking under "_masking".
        super().__setattr__("_masking" if name == "masking" else name, value)

    @property
    def masking(self) -> MaskSequence | None:
        """The masking applied to the vectors, or None."""
        return self._masking

    def set_masking(self, masking: MaskSequence | None) -> None:
        """Use ``masking`` from now on."""
        if masking is not None and not isinstance(masking, MaskSequence):
            raise type_error(
                type(self).__name__, "masking", "be a MaskSequence", type(masking).__name__
            )
        self._masking = masking

    @property
    def categorical_module(self) -> SequenceEmbeddingFeatures:
        """The embeddings of the categorical columns."""
        return cast(SequenceEmbeddingFeatures, self.to_merge["categorical_module"])

    @property
    def item_id(self) -> str | None:
        """The name of the column of item ids."""
        return self.categorical_module.item_id

    @property
    def item_embedding_table(self) -> nn.Module | None:
        """The embedding table of the items."""
        return self.categorical_module.item_embedding_table

    @property
    def max_sequence_length(self) -> int | None:
        """The longest session, if it was given."""
        sizes = self.categorical_module.output_size()
        return max((size[1] for size in sizes.values() if size[1] > 0), default=None)

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
        if self.masking is None or self.aggregation is None:
            return None
        if "masked" not in named_arguments(self.masking):
            return None
        item_ids = self.categorical_module.item_ids(inputs)
        return self.masking.mask(item_ids, training=training, testing=testing)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        training: bool = False,
        testing: bool = False,
        masked: MaskedItems | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Return the vectors [B, T, D] of a batch; the flags choose what the masking hides.

        Parameters
        ----------
        inputs : mapping from column name to tensor
            Ids int64 [B, T], padded on the right with 0, or [B] for the whole session.
        training, testing : bool
            Neither: inference. Both: training.
        masked : MaskedItems, optional
            What :meth:`masked_items` gave for this batch; made here if absent.
        """
        vectors: dict[str, Tensor] = self.categorical_module(inputs)
        if self.aggregation is None:
            return vectors
        outputs = AGGREGATIONS[self.aggregation][0](vectors)
        if self.projection_module is not None:
            outputs = self.projection_module(outputs)
        if self.masking is not None:
            flags = {"training": training, "testing": testing}
            if masked is None:
                item_ids = self.categorical_module.item_ids(inputs)
                outputs = self.masking(outputs, item_ids=item_ids, **flags)
            else:
                outputs = self.masking(outputs, masked.item_ids, **flags, masked=masked)
        return outputs

    def forward_output_size(self, input_size: Any) -> Any:
        """Return [-1, T, D], or one such size per column without an aggregation."""
        sizes = self.categorical_module.output_size()
        if self.aggregation is None:
            return sizes
        width = AGGREGATIONS[self.aggregation][1]({name: s[-1] for name, s in sizes.items()})
        size = torch.Size([-1, self.max_sequence_length or -1, width])
        return size if self.projection_module is None else self.projection_module.output_size(size)


def _select(schema: Schema, continuous_tags: Any, categorical_tags: Any) -> Schema:
    continuous = schema.select_by_tag(continuous_tags)
    if len(continuous):
        raise value_error(
            "TabularSequenceFeatures",
            "schema",
            "have categorical columns only",
            f"continuous columns {continuous.column_names}",
            "Leave them out with continuous_tags=None, or with schema.select_by_tag.",
        )
    categorical = schema.select_by_tag(categorical_tags)
    if not len(categorical):
        raise value_error(
            "TabularSequenceFeatures",
            "schema",
            f"have a column tagged {categorical_tags}",
            f"columns {schema.column_names}",
        )
    return categorical


def _longest(schema: Schema) -> int | None:
    return max((c.max_length for c in schema if c.max_length is not None), default=None)


def _split_arguments(
    masking: str | MaskSequence | None, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the embeddings and those of the masking; some belong to both."""
    embedding = set(inspect.signature(SequenceEmbeddingFeatures.from_schema).parameters)
    embedding -= {"schema", "tags", "max_sequence_length"}
    own: set[str] = set()
    if isinstance(masking, str):
        own = set(inspect.signature(masking_registry.parse(masking)).parameters) - {"hidden_size"}
    unknown = sorted(set(kwargs) - embedding - own)
    if unknown:
        raise type_error(
            "TabularSequenceFeatures.from_schema",
            "arguments",
            f"be among {sorted(embedding | own)}",
            unknown,
        )
    return (
        {name: value for name, value in kwargs.items() if name in embedding},
        {name: value for name, value in kwargs.items() if name in own},
    )


def _build_projection(projection: Any, size: Any) -> BlockBase:
    if isinstance(projection, (BuildableBlock, BlockBase)):
        return projection.build(size)
    raise type_error(
        "TabularSequenceFeatures",
        "projection",
        "be a block",
        type(projection).__name__,
        "Wrap a module: Block(module, output_size).",
    )


def _make_masking(
    masking: str | MaskSequence | None, inputs: TabularSequenceFeatures, kwargs: dict[str, Any]
) -> MaskSequence | None:
    if not isinstance(masking, str):
        return masking
    masking_class: type[MaskSequence] = masking_registry.parse(masking)
    return masking_class(hidden_size=inputs.output_size()[-1], **kwargs)
