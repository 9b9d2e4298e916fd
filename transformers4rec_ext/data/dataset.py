"""A schema with the parquet file that it is of, and random batches of it."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from transformers4rec_ext.schema import Schema, as_merlin_schema
from transformers4rec_ext.utils.schema_utils import random_data_from_schema


class Dataset:
    """A schema file, and random batches of its columns.

    Parameters
    ----------
    schema_path : path
        Of protobuf text where it ends in ``.pb`` or ``.pbtxt``, else of JSON.
    """

    def __init__(self, schema_path: str | os.PathLike[str]) -> None:
        self.schema_path = os.fspath(schema_path)

    @cached_property
    def schema(self) -> Schema:
        """The columns."""
        is_text = Path(self.schema_path).suffix in (".pb", ".pbtxt")
        read = Schema.from_proto_text if is_text else Schema.from_json
        return read(Path(self.schema_path))

    @property
    def merlin_schema(self) -> Any:
        """The columns as a ``merlin.schema.Schema``; ImportError where Merlin is not installed."""
        return as_merlin_schema(self.schema)

    def torch_synthetic_data(
        self,
        num_rows: int = 100,
        min_session_length: int = 5,
        max_session_length: int = 20,
        device: torch.device | str | None = None,
        ragged: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Return a random batch, of ``utils.schema_utils.random_data_from_schema``.

        Examples
        --------
        >>> from transformers4rec_ext.data import tabular_sequence_testing_data
        >>> batch = tabular_sequence_testing_data.torch_synthetic_data(num_rows=10)
        >>> batch["item_id/list"].shape, batch["user_country"].shape
        (torch.Size([10, 20]), torch.Size([10]))
        """
        return random_data_from_schema(
            self.schema,
            num_rows,
            max_session_length=max_session_length,
            min_session_length=min_session_length,
            device=device,
            ragged=ragged,
        )


class ParquetDataset(Dataset):
    """A folder with a parquet file and its schema.

    Parameters
    ----------
    dir : path
    parquet_file_name, schema_file_name : str
    schema_path : path, optional
        Of a schema that lies elsewhere.
    """

    def __init__(
        self,
        dir: str | os.PathLike[str],
        parquet_file_name: str = "data.parquet",
        schema_file_name: str = "schema.json",
        schema_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(schema_path or os.path.join(dir, schema_file_name))
        self.path = os.path.join(dir, parquet_file_name)
