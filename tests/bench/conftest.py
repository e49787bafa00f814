"""Nothing here touches what the user keeps."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("cache")
    pytest.MonkeyPatch().setenv("XDG_CACHE_HOME", str(folder))
