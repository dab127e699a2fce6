"""`cnnjob trace` as people run it; none of these starts Ray."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Command
from tests.helpers import PictureSource, prepare, prepare_config
from tests.piles import encoded, pixels

LARGE = "large.yaml"


def test_the_thirteen_stages_of_the_default_net(cnnjob: Command) -> None:
    """Without options: the default net on 3x32x32, 13 stages, 136,874 parameters."""
    result = cnnjob("trace", "--json").json
    kinds = [stage["kind"] for stage in result["stages"]]
    block = ["conv", "relu", "pool"]
    assert kinds == ["input", "normalize", *block, *block, "flatten", "linear", "relu", "linear", "softmax"]
    assert result["parameters"] == sum(stage["parameters"] for stage in result["stages"]) == 136_874
    text = cnnjob("trace").out
    shapes = ("1000x3x32x32", "1000x16x32x32", "1000x16x16x16", "1000x32x16x16", "1000x32x8x8", "1000x2048", "1000x10")
    assert all(shape in text for shape in shapes)
    assert "128 becomes 0.502" in text


@pytest.mark.parametrize(("preset", "features"), [("simple", 2048), ("net", 3600), ("cnn64", 3380)])
def test_presets_on_the_images_they_are_drawn_with(cnnjob: Command, preset: str, features: int) -> None:
    """A preset without a shape is traced on its own."""
    stages = cnnjob("trace", "--preset", preset, "--json").json["stages"]
    assert next(stage for stage in stages if stage["kind"] == "flatten")["shape_out"] == [features]


def conf(folder: Path, dataset: object, model: str = "default") -> str:
    """A train conf of a data set."""
    (folder / "train.yaml").write_text(f"name: run\ndataset: {dataset}\nmodel: {{preset: {model}}}\n")
    return str(folder / "train.yaml")


def test_a_conf_is_traced_on_the_images_of_its_data_set(cnnjob: Command, tmp_path: Path) -> None:
    """Shape and number of classes are the manifest's; --shape and --classes win, and nothing is assumed."""
    config = prepare_config(tmp_path / "set", size=(12, 8))
    prepare(config, PictureSource(40))
    path = conf(tmp_path, config.output)
    ended = cnnjob("trace", "--config", path)
    assert "1000x3x12x8" in ended.out
    assert "largest map 1,536 numbers" in ended.out
    assert "assumed" not in ended.err
    stages = cnnjob("trace", "--config", path, "--json").json["stages"]
    assert (stages[0]["shape_out"], stages[-1]["shape_out"]) == ([3, 12, 8], [3])
    stages = cnnjob("trace", "--config", path, "--shape", "1x16x16", "--classes", "7", "--json").json["stages"]
    assert (stages[0]["shape_out"], stages[-1]["shape_out"]) == ([1, 16, 16], [7])


@pytest.mark.parametrize(
    ("preset", "arguments", "told"),
    [
        ("default", (), "assumed 3x32x32 and 10 classes; give --shape and --classes"),
        ("cnn64", (), "assumed 3x64x64 and 5 classes; give --shape and --classes"),
        ("default", ("--shape", "1x8x8"), "assumed 10 classes; give --classes"),
        ("default", ("--classes", "3"), "assumed 3x32x32; give --shape"),
    ],
)
def test_what_is_assumed_of_a_conf_is_told(cnnjob: Command, tmp_path: Path, preset: str, arguments, told: str) -> None:
    """Where the data set is not there yet, the usual images are taken, and the note says so."""
    ended = cnnjob("trace", "--config", conf(tmp_path, tmp_path / "none", preset), *arguments)
    assert ended.code == 0, ended.err
    assert f"at {tmp_path / 'none'}: {told}\n" in ended.err


def test_a_picture_on_its_way(cnnjob: Command, tmp_path: Path) -> None:
    """With --image: the layers with their ranges, the probabilities, and the maps as a PNG."""
    (tmp_path / "picture.png").write_bytes(encoded(pixels(1, 40, 30, 3)[0]))
    ended = cnnjob("trace", "--image", "picture.png", "--json")
    assert ended.code == 0, ended.err
    assert "untrained" in ended.err
    assert len(ended.json["layers"]) == 8
    assert abs(sum(ended.json["probabilities"].values()) - 1) < 1e-5
    assert (tmp_path / "feature_maps.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_told(cnnjob: Command, tmp_path: Path) -> None:
    """Where no file can be made, the maps' path is told as that, and not as one that should have been there."""
    (tmp_path / "picture.png").write_bytes(encoded(pixels(1, 40, 30, 3)[0]))
    ended = cnnjob("trace", "--image", "picture.png", "--png", "/proc/maps.png")
    assert ended.code == 2
    assert "/proc/maps.png cannot be written: no file can be made in /proc" in ended.err


def test_what_cannot_be_traced_is_told(cnnjob: Command, tmp_path: Path) -> None:
    """An unknown preset, two nets at once, a picture that is none: exit code 2 and nothing written."""
    (tmp_path / "no.png").write_bytes(b"no picture")
    block = "{filters: 4096, padding: 1, pool: 8}"
    (tmp_path / LARGE).write_text(f"name: run\ndataset: data\nmodel: {{spec: {{blocks: [{block}]}}}}\n")
    for arguments, word in (
        (("--preset", "huge"), "'huge'"),
        (("--preset", "net", "--model", "models:/a/1"), "give one of them"),
        (("--image", "no.png"), "not_an_image"),
        (("--image", "missing.png"), "does not exist"),
        (("--png", "x.png"), "--png is where the picture of --image is drawn; give --image"),
        (("--classes", "0"), "--classes 0 should be from 2 to 1,000,000"),
        (("--classes", "100000000", "--image", "no.png"), "--classes 100000000 should be from 2 to 1,000,000"),
        (("--preset", ""), "'' is not allowed"),
        (("--shape", ""), "--shape '' should be"),
        (("--shape", "²x32x32"), "--shape '²x32x32' should be CHANNELSxHEIGHTxWIDTH, each from 1 to 4,096"),
        (("--shape", "3x32x4097"), "--shape '3x32x4097' should be"),
        (("--shape", f"3x{'9' * 5000}x3"), "9...' should be"),
        (("--shape", "2x32x32", "--image", "no.png"), "1 or 3 channels, and this one has 2"),
        (("--config", LARGE, "--shape", "3x512x512", "--classes", "3", "--image", "no.png"), "takes 8.9 GB of memory"),
        (("--image", ""), "--image: a path or URI cannot be empty"),
        (("--image", "no.png", "--png", ""), "--png: a path or URI cannot be empty"),
        (("--image", "no.png", "--png", "./no.png"), "drawn over the picture"),
        (("--model", "digits"), "--model 'digits' should be models:/digits@champion or models:/digits/1"),
        (("--model", "models:/digits/"), "should be models:/digits@champion or models:/digits/1"),
        (
            ("--preset", "cnn64", "--shape", "3x8x8"),
            "conv2: a kernel of 5x5, step 1, padding 0, makes maps of 0x0 from",
        ),
    ):
        ended = cnnjob("trace", *arguments)
        assert ended.code == 2, ended.err
        assert word in ended.err
        assert len(ended.err) < 500
    assert sorted(path.name for path in tmp_path.iterdir()) == [LARGE, "no.png"]
    assert (tmp_path / "no.png").read_bytes() == b"no picture"
