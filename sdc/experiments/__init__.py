"""Grids of settings, each cell of which is trained, encoded and evaluated: what `ablate` and `reproduce` share."""

from sdc.experiments.folder import CSV, TABLE, GridFolder
from sdc.experiments.grid import (
    OVER,
    Cell,
    Value,
    cell_name,
    describe,
    make_cells,
    parse_fixed,
    parse_over,
)
from sdc.experiments.jobs import compute, compute_all
from sdc.experiments.table_files import DASH, markdown_table, read_csv, with_spread, write_csv
from sdc.experiments.tables import Row, grouped, make_rows, markdown, mean_sd, values

__all__ = [
    "CSV",
    "DASH",
    "OVER",
    "TABLE",
    "Cell",
    "GridFolder",
    "Row",
    "Value",
    "cell_name",
    "compute",
    "compute_all",
    "describe",
    "grouped",
    "make_cells",
    "make_rows",
    "markdown",
    "markdown_table",
    "mean_sd",
    "parse_fixed",
    "parse_over",
    "read_csv",
    "values",
    "with_spread",
    "write_csv",
]
