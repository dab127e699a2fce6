"""What the README says of confs, commands and files is so. Its commands and its Python are run in ``e2e``."""

import re
from pathlib import Path

import pytest

from cnnjob.config import kinds
from cnnjob.config.prepare import PrepareConfig
from cnnjob.training.order import rank_range, share

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFS = sorted(ROOT.glob("conf/*/*.yaml"))
BLOCKS = re.findall(r"^`(conf/\S+)`:\n\n```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_every_conf_in_the_text_is_the_file_of_its_name():
    """A conf that is shown in full is the shipped file, letter by letter; there is no other block of YAML."""
    assert len(BLOCKS) == README.count("```yaml\n") >= 2
    for name, text in BLOCKS:
        assert text == (ROOT / name).read_text(), name


def test_every_conf_that_is_named_is_shipped():
    """A path below conf/ in the text, also in a command, leads to a file."""
    named = set(re.findall(r"conf/\w+/\w+\.yaml", README))
    assert named
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_the_confs_that_are_typed_fit_each_other(tmp_path, monkeypatch):
    """The ones for a folder of pictures load, and each job finds what the one before it has written."""
    typed = re.findall(r"^cat > (\w+)\.yaml <<END\n(.*?)^END$", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    confs = {}
    for kind, text in typed:
        (tmp_path / f"{kind}.yaml").write_text(text)
        confs[kind] = kinds.load(kind, tmp_path / f"{kind}.yaml")
    prepare, train, score = (confs[kind] for kind in ("prepare", "train", "score"))
    assert train.dataset == prepare.output
    assert score.model == f"models:/{train.name}@champion"
    assert score.tracking.uri == train.tracking.uri == str(tmp_path / "tracking")


@pytest.mark.parametrize("path", CONFS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_conf_is_listed(path):
    """The table of confs names each shipped one, and what it shows."""
    assert f"`{path.parent.name}/{path.name}`" in README


def test_the_tree_has_every_module():
    """Each package and module of cnnjob stands in the tree."""
    tree = re.search(r"^## The tree\n\n```text\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)[1]
    rooms = {path.name for path in (ROOT / "cnnjob").iterdir() if not path.name.startswith("_")}
    assert {room for room in rooms if room not in tree} == set()
    tests = {f"{path.name}/" for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    assert {folder for folder in tests if folder not in tree} == set()


def test_the_memory_of_a_worker_is_what_the_text_says():
    """The example of a feed: Fashion-MNIST, as its conf prepares it, with the batch of its conf, on two workers."""
    start, stop = rank_range(54_080, 128, 0, 2)
    rows = stop - start + share(5_920, 0, 2)
    image = PrepareConfig.model_fields["image"].get_default(call_default_factory=True)
    row_bytes = image.channels * image.height * image.width
    assert f"{rows:,} rows x {row_bytes:,} bytes = {rows * row_bytes / 1e6:,.1f} MB a worker" in README
