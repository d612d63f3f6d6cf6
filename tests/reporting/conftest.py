"""A browser for the tests that look at pages, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.browser import NAMES, Browser, find


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip(f"there is no Chromium on PATH ({', '.join(NAMES)}); `make tools` installs it")
    made = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()
