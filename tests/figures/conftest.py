"""The synthetic experiment as fixtures."""

import pytest
from synthetic import make_tables, write_tables


@pytest.fixture(scope="session")
def tables():
    """The tables of the synthetic experiment, by file name."""
    return make_tables()


@pytest.fixture(scope="session")
def folder(tables, tmp_path_factory):
    """A folder with the tables of the synthetic experiment."""
    return write_tables(tables, tmp_path_factory.mktemp("tables"))
