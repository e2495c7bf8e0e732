"""Groups of encodings: what `cpvt compare --encodings` takes by one name."""

import pytest

import cpvt
from cpvt.encodings import TABLE, Entry
from cpvt.encodings.table import DEFAULT_GROUP, groups
from cpvt.encodings.text import expand_groups, split_encoding


def test_every_encoding_is_in_a_group_and_all_holds_each():
    assert groups()["all"] == tuple(TABLE)
    for name, entry in TABLE.items():
        assert entry.groups, f"{name} needs a group"
        assert all(name in groups()[group] for group in entry.groups)
    assert all(list(members) == sorted(members, key=list(TABLE).index) for members in groups().values())


def test_the_default_group_is_the_seven_that_compare_has_always_trained():
    assert groups()[DEFAULT_GROUP] == ("none", "learned", "sincos", "relative", "rope", "peg", "peg5")


def test_a_group_is_never_named_like_an_encoding_or_declared_as_all():
    assert not set(groups()) & set(TABLE)
    assert not [name for name, entry in TABLE.items() if "all" in entry.groups]


def test_groups_are_expanded_in_place_and_each_encoding_is_there_once():
    both = dict.fromkeys((*groups()["convolution"], *groups()["absolute"]))  # glpe is in both
    assert expand_groups(("rope+peg", "convolution", "absolute", "peg(at=2)", "peg", "pge")) == (
        "rope+peg", *both, "peg(at=2)", "pge",
    )  # fmt: skip
    assert expand_groups(("peg(at=(1,2))+rope", "peg( at = (1, 2) ) + rope")) == ("peg(at=(1, 2))+rope",)
    assert expand_groups(("peg5", "all"))[0] == "peg5"
    assert sorted(expand_groups(("peg5", "all", "paper"))) == sorted(TABLE)
    assert expand_groups(()) == ()


def test_an_entry_makes_its_group(monkeypatch):
    monkeypatch.setitem(TABLE, "mine", Entry("somewhere:Mine", ("bias", "new")))
    assert expand_groups(["new"]) == ("mine",)
    assert expand_groups(["bias"])[-1] == expand_groups(["all"])[-1] == "mine"
    assert "mine" not in expand_groups([DEFAULT_GROUP])


def test_an_unknown_name_is_answered_with_the_groups_too():
    with pytest.raises(
        ValueError, match=r"unknown encoding 'rotery' \(did you mean rotary\?\); known: none, .*: all, paper, .*rotary"
    ):
        split_encoding("rotery")


@pytest.mark.parametrize("text", ["convolution", "rope+convolution", "convolution(at=1)"])
def test_a_group_where_one_encoding_is_wanted_is_refused_as_such(text):
    with pytest.raises(
        ValueError, match=rf"' is a group of encodings, .*; name one of it here: {', '.join(groups()['convolution'])}"
    ):
        cpvt.create_model("cpvt_micro", encoding=text)
