"""docs/semantics.md names a test for each point; the tests are there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_the_document_names_exists(repository: Path):
    folder = repository / "tests" / "runtime"
    file, named = "", []
    for match in re.finditer(r"`(test_\w+\.py)?::(test_\w+)", (repository / "docs" / "semantics.md").read_text()):
        file = match[1] or file
        named.append((file, match[2]))
    assert len(named) > 30
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (folder / file).read_text()]
    assert missing == []
