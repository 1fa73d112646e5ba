"""The engine cache of whoever runs the tests is no place for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.cache import default_root


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """Where what is made once for all tests is kept."""
    return default_root()


def test_what_all_tests_share_is_kept_apart_too(
    shared_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert shared_root.is_relative_to(tmp_path_factory.getbasetemp())
    assert default_root() == shared_root
