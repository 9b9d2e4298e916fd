"""Small generated tables with the columns of upstream's testing data.

The values are random, and the files written when they are first asked for: nothing about quality
can be read from them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from transformers4rec_ext.data.dataset import ParquetDataset
from transformers4rec_ext.schema import ColumnSchema, FloatDomain, IntDomain, Schema, Tags
from transformers4rec_ext.utils.schema_utils import random_data_from_schema

_ROWS = 1000


class GeneratedDataset(ParquetDataset):
    """A :class:`ParquetDataset` of random rows, whose files are written when they are asked for.

    They lie in a temporary folder that is removed at exit.

    Parameters
    ----------
    name : str
        Of the folder.
    schema : Schema
    lengths : (int, int)
        The shortest and the longest row of the list columns.
    """

    def __init__(self, name: str, schema: Schema, lengths: tuple[int, int]) -> None:
        self.name = name
        self.schema = schema
        self.lengths = lengths

    @cached_property
    def path(self) -> str:  # type: ignore[override]
        """The parquet file, of 1000 rows."""
        shortest, longest = self.lengths
        data = random_data_from_schema(self.schema, _ROWS, longest, shortest, ragged=True)
        path = self._folder() / "data.parquet"
        pq.write_table(_table(data, self.schema), path)
        return str(path)

    @cached_property
    def schema_path(self) -> str:  # type: ignore[override]
        """The schema as JSON."""
        path = self._folder() / "schema.json"
        path.write_text(self.schema.to_json())
        return str(path)

    def _folder(self) -> Path:
        folder = _temporary_folder() / self.name
        folder.mkdir(exist_ok=True)
        return folder


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="transformers4rec_ext-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _table(data: dict[str, torch.Tensor], schema: Schema) -> pa.Table:
    columns = {}
    for column in schema:
        if column.is_list:
            offsets = pa.array(data[f"{column.name}__offsets"].numpy(), pa.int32())
            values = pa.array(data[f"{column.name}__values"].numpy())
            columns[column.name] = pa.ListArray.from_arrays(offsets, values)
        else:
            columns[column.name] = pa.array(data[column.name].numpy())
    return pa.table(columns)


def _ids(name: str, max_id: int, *tags: Tags, least: int = 0, **lengths: Any) -> ColumnSchema:
    return ColumnSchema(
        name,
        tags=(Tags.CATEGORICAL, *tags, *([Tags.LIST] if lengths else [])),
        is_list=bool(lengths),
        int_domain=IntDomain(least, max_id, name=name),
        **lengths,
    )


def _reals(name: str, low: float, high: float, *tags: Tags, **lengths: Any) -> ColumnSchema:
    return ColumnSchema(
        name,
        tags=(Tags.CONTINUOUS, *tags, *([Tags.LIST] if lengths else [])),
        dtype="float32",
        is_list=bool(lengths),
        float_domain=FloatDomain(low, high, name),
        **lengths,
    )


def _targets(**kinds: Tags) -> list[ColumnSchema]:
    return [
        ColumnSchema(name, tags=(kind, Tags.TARGET), dtype=None) for name, kind in kinds.items()
    ]


def _tabular() -> Schema:
    return Schema(
        [
            _ids("user_id", 1797, least=1),
            ColumnSchema("event_timestamp"),
            _reals("item_age_days_norm", -2.9177, -1.2572),
            _reals("event_hour_sin", 0.0, 1.0),
            _reals("event_hour_cos", 0.0, 1.0),
            _reals("event_weekday_sin", 0.0, 1.0),
            _reals("event_weekday_cos", 0.0, 1.0),
            _ids("item_id", 51996, Tags.ITEM_ID, Tags.ITEM, least=1),
            _ids("categories", 331, Tags.ITEM, least=1, min_length=1, max_length=4),
            _ids("user_country", 62, least=1),
            _reals("user_age", 0.0, 0.408),
        ]
    )


def _tabular_sequence() -> Schema:
    many = {"min_length": 2, "max_length": 185}
    return Schema(
        [
            _reals("timestamp/age_days/LogOp/Normalize/list", -2.9177, 1.5232, **many),
            _reals("timestamp/hour/list", 0.0, 1.6052, Tags.TIME, **many),
            _reals("timestamp/weekday/list", 0.0, 1.5683, Tags.TIME, **many),
            _reals("timestamp/day/list", 0.0558, 1.7343, Tags.TIME, **many),
            _reals("timestamp/month/list", 0.593, 1.3345, Tags.TIME, **many),
            _reals("timestamp/year/list", 1.0, 1.0, Tags.TIME, **many),
            _reals("timestamp/hour/sin/list", 0.0, 0.408, Tags.TIME, **many),
            _reals("timestamp/hour/cos/list", 0.9129, 1.0, Tags.TIME, **many),
            _reals("timestamp/weekday/sin/list", 0.7421, 0.9996, Tags.TIME, **many),
            _reals("timestamp/weekday/cos/list", -0.6703, 0.6234, Tags.TIME, **many),
            _ids("item_id/list", 51996, Tags.ITEM_ID, Tags.ITEM, least=1, **many),
            _ids("category/list", 332, Tags.ITEM, least=1, **many),
            _ids("user_country", 62, least=1),
            _reals("user_age", 0.0, 0.408),
        ]
    )


def _music_streaming() -> Schema:
    some = {"min_length": 1, "max_length": 20}
    return Schema(
        [
            _ids("session_id", 10000, Tags.SESSION_ID),
            _ids("item_id", 10000, Tags.ITEM_ID, Tags.ITEM, **some),
            _ids("item_category", 100, Tags.ITEM, **some),
            _reals("item_recency", 0.0, 1.0, Tags.ITEM, **some),
            _ids("item_genres", 100, Tags.ITEM, **some),
            _ids("user_id", 10000, Tags.USER_ID),
            _ids("country", 100, Tags.USER),
            *_targets(
                click=Tags.BINARY_CLASSIFICATION,
                play_percentage=Tags.REGRESSION,
                like=Tags.BINARY_CLASSIFICATION,
            ),
        ]
    )


tabular_testing_data = GeneratedDataset("tabular", _tabular(), (1, 4))
tabular_sequence_testing_data = GeneratedDataset("tabular_sequence", _tabular_sequence(), (2, 40))
music_streaming_testing_data = GeneratedDataset("music_streaming", _music_streaming(), (20, 20))
