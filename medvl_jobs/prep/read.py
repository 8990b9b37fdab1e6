"""Temporary names; goes away."""
from medvl_jobs.prep.parquet import *  # noqa
from medvl_jobs.prep.parquet import cell_values as _values, column_names as _column_names, open_parquet as _open_parquet, _parquet_errors, _first_line  # noqa
