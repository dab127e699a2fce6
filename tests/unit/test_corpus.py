import json
import subprocess
import sys
import time

import pytest

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.formats.encoded import decode
from cnnjob.schema import REASONS
from tests.corpus.files import LIMITS, bombs, corpus, large_files

FILES = corpus()
STRETCH = ImageConfig(resize="stretch")
MAX_GROWTH_BYTES = 256 * 2**20


def seconds(content: bytes) -> float:
    start = time.perf_counter()
    decode(content, STRETCH, LIMITS)
    return time.perf_counter() - start


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_every_file_is_a_picture_or_refused_with_its_reason(file):
    """An odd file is read; a bad one is refused with the expected reason and one short line without addresses."""
    found = decode(file.content, STRETCH, LIMITS)
    if file.reason is None:
        assert not isinstance(found, Refusal), found
        assert found.shape == (3, 32, 32)
        return
    assert isinstance(found, Refusal)
    assert found.reason == file.reason in REASONS
    assert found.detail.isprintable()
    assert 0 < len(found.detail) <= 200
    assert " at 0x" not in found.detail


def test_the_corpus_is_large_and_unambiguous():
    """At least 70 files, no name twice, with every reason that bytes alone can give."""
    assert len({file.name for file in FILES}) == len(FILES) >= 70
    whole = {"empty", "truncated", "not_an_image", "format_not_allowed", "too_many_bytes"}
    assert {file.reason for file in FILES} == {*whole, "too_many_pixels", "mode_not_supported", "unreadable", None}


@pytest.mark.parametrize("bomb", bombs(), ids=lambda bomb: bomb.name)
def test_a_bomb_is_refused_at_once(bomb):
    """A bomb is refused within 50 ms, in the best of five tries."""
    assert min(seconds(bomb.content) for _ in range(5)) <= 0.05


@pytest.mark.slow
def test_no_file_takes_much_memory(tmp_path):
    """No file takes more than 256 MB, good ones of exactly max_pixels among them, whether scaled down or kept whole."""
    large = large_files()
    for name, content in [*large.items(), *((file.name, file.content) for file in FILES)]:
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "tests.corpus.measure", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == 2 * len(large) + len(FILES)
    assert [line for line in measured if line["grown_bytes"] > MAX_GROWTH_BYTES] == []
    scaled = {line["name"]: line["reason"] for line in measured if line["resize"] == "stretch"}
    assert {name: scaled[name] for name in large} == dict.fromkeys(large)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(4096, 4096), (4096, 4097)])
def test_the_bound_on_pixels_is_exact(height, width):
    """A picture of exactly max_pixels is decoded, and one column more is too many."""
    from PIL import Image

    from tests.corpus.builders import encoded

    found = decode(encoded(Image.new("L", (width, height)), "png"), STRETCH, LimitsConfig())
    assert isinstance(found, Refusal) == (width > 4096)
