"""What is said to do about refused rows."""

import pytest

from cnnjob.data.remedies import commonest, remedy
from cnnjob.schema import REASON, REASONS
from tests.piles import config_of

FOLDER = {"kind": "folder", "uri": "/photos"}
TABLE = {"kind": "manifest", "uri": "/photos.csv", "columns": {"label": "sort"}}


def refused(*reasons: str) -> list[dict[str, str]]:
    """Rows refused for these reasons, numbered."""
    return [{"id": str(number), REASON: reason} for number, reason in enumerate(reasons)]


def test_the_example_is_the_first_of_the_commonest_reason():
    """Not the first row that was refused; where two reasons are as common, the one that comes first."""
    assert commonest(refused("empty", "gone", "gone"))["id"] == "1"
    assert commonest(refused("gone", "empty", "empty", "gone"))["id"] == "0"


@pytest.mark.parametrize(
    ("reason", "values", "told"),
    [
        ("wrong_size", {}, "image.resize is exact: set it to fit_pad, center_crop or stretch"),
        ("wrong_size", {"image": {"resize": "pad"}}, "image.resize is pad, so larger pictures are refused: set it to"),
        ("format_not_allowed", {"limits": {"formats": ["png", "gif"]}}, "limits.formats is png, gif: add the format"),
        ("too_many_bytes", {"limits": {"max_bytes": 100}}, "limits.max_bytes is 100: raise it"),
        ("too_many_pixels", {"limits": {"max_pixels": 100}}, "limits.max_pixels is 100: raise it"),
        ("gone", {}, "Restore the files"),
        ("unreadable", {}, "Give access to the files"),
        ("changed", {}, "Run the same command again"),
        ("truncated", {}, "Mend these files, or take them out of the source"),
    ],
)
def test_a_remedy_names_the_key_and_its_value(reason, values, told):
    """What can be set is named with what it is now; what cannot is to be mended."""
    assert remedy(reason, config_of(source=FOLDER, **values)).startswith(told)


def test_a_row_without_a_class_gets_one_where_its_source_has_them():
    """A folder has sub-folders, one with given splits below those; a table has a column, and maybe names."""
    told = "Put the pictures of each class into a sub-folder of their own, in "
    assert remedy("label_unknown", config_of(source=FOLDER)) == f"{told}/photos"
    given = config_of(source=FOLDER, split={"method": "given"})
    assert remedy("label_unknown", given) == f"{told}the folders of the splits in /photos"
    assert remedy("label_unknown", config_of(source=TABLE)) == "Fill the column 'sort' of /photos.csv"
    named = config_of(source={**TABLE, "class_names": ["cat", "dog"]})
    assert remedy("label_unknown", named).endswith(", with a name that is in source.class_names")


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_remedy(reason):
    """One sentence that goes before a stop."""
    told = remedy(reason, config_of(source=FOLDER))
    assert told
    assert not told.endswith(".")
