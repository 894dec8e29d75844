"""Settings: what goes in comes out, and what is wrong is named."""

from dataclasses import MISSING, dataclass
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symcere.config.fields import (
    build,
    flatten,
    json_schema,
    leaves,
    listed,
    merge,
    read_yaml,
    setting,
    to_dict,
    to_yaml,
)
from symcere.errors import UserError


@dataclass(frozen=True)
class Part:
    name: str = setting("a", "a name")
    width: int = setting(4, "in cells", low=1, high=9)

    @classmethod
    def from_name(cls, name: str) -> "Part":
        return cls(name=name)


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, "per second", above=0)
    kind: Literal["none", "some"] = setting("none", "which")
    on: bool = setting(False, "a switch")

    def __post_init__(self):
        if self.on and self.kind == "none":
            raise ValueError("inner.on needs a kind.")


@dataclass(frozen=True)
class Outer:
    inner: Inner = setting(Inner, "a part")
    parts: tuple[Part, ...] = setting((Part(),), "several parts")
    sizes: tuple[int, ...] = setting((1, 2), "several sizes", low=1)
    limit: int | None = setting(None, "a limit, if any", low=0)
    extra: dict = setting(None, "anything")


@dataclass(frozen=True)
class Card:
    title: str = setting(MISSING, "needed")


def test_defaults_need_no_mapping():
    assert build(Outer, None) == build(Outer, {}) == Outer()
    assert build(Outer, {"inner": None}) == Outer()  # YAML: a section with nothing in it


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inner": {"rate": "1e-3"}}, Outer(Inner(rate=1e-3))),  # YAML 1.1 reads 1e-3 as text
        ({"inner": {"rate": 2}}, Outer(Inner(rate=2.0))),
        ({"inner": {"kind": None}}, Outer()),  # YAML's null is `none`
        ({"inner": {"kind": "some", "on": "true"}}, Outer(Inner(kind="some", on=True))),
        ({"sizes": "5, 10"}, Outer(sizes=(5, 10))),
        ({"sizes": 7}, Outer(sizes=(7,))),
        ({"sizes": [3.0]}, Outer(sizes=(3,))),
        ({"parts": "a,b"}, Outer(parts=(Part("a"), Part("b")))),
        ({"parts": ["a", {"name": "b", "width": 2}]}, Outer(parts=(Part("a"), Part("b", 2)))),
        ({"limit": "3"}, Outer(limit=3)),
        ({"limit": None}, Outer()),
        ({"extra": {"a": 1}}, Outer(extra={"a": 1})),
    ],
)
def test_build(given, expected):
    assert build(Outer, given) == expected


def test_texts_stay_texts():
    assert build(Part, {"name": 2014}).name == "2014"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iner": {}}, r"Unknown setting 'iner'\. Did you mean inner\?"),
        ({"inner": {"rat": 1}}, r"Unknown setting 'inner\.rat'\. Did you mean rate\?"),
        ({"inner": {7: 1}}, r"Unknown setting 'inner\.7'\. Known: kind, on, rate\."),
        ({"inner": 3}, "inner must be a mapping of settings, not 3"),
        ([], r"Outer must be a mapping of settings, not \[\]"),
        ({"inner": {"rate": "fast"}}, r"'inner\.rate' must be a number, not 'fast'"),
        ({"inner": {"rate": True}}, r"'inner\.rate' must be a number, not True"),
        ({"inner": {"rate": "nan"}}, r"'inner\.rate' must be a number"),
        ({"inner": {"rate": float("inf")}}, r"'inner\.rate' must be a number, not inf"),
        ({"inner": {"rate": 0}}, r"'inner\.rate' is 0, but must be above 0"),
        ({"inner": {"kind": "sum"}}, r"'inner\.kind' cannot be 'sum'\. It is one of none, some"),
        ({"inner": {"on": "yes"}}, r"'inner\.on' must be true or false, not 'yes'"),
        ({"inner": {"on": True}}, r"inner: inner\.on needs a kind"),
        ({"sizes": [1, 0]}, r"'sizes\[1\]' is 0, but must be at least 1"),
        ({"sizes": 1.5}, r"'sizes\[0\]' must be a whole number, not 1\.5"),
        ({"sizes": float("inf")}, r"'sizes\[0\]' must be a whole number, not inf"),
        ({"sizes": [[1]]}, r"'sizes\[0\]' must be a whole number"),
        ({"sizes": True}, r"'sizes\[0\]' must be a whole number, not True"),
        ({"parts": [{"width": 10}]}, r"'parts\[0\]\.width' is 10, but must be at least 1 and at most 9"),
        ({"parts": [{"name": None}]}, r"'parts\[0\]\.name' must be text, not None"),
        ({"extra": 3}, "'extra' must be a mapping, not 3"),
        ({"limit": -1}, "'limit' is -1, but must be at least 0"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(UserError, match=message):
        build(Outer, given)


def test_a_required_setting():
    with pytest.raises(UserError, match="Card lacks the required setting 'title'"):
        build(Card, {})
    assert build(Card, {"title": "x"}) == Card("x")
    assert json_schema(Card)["required"] == ["title"]


outers = st.builds(
    Outer,
    inner=st.builds(
        Inner,
        rate=st.floats(min_value=1e-300, max_value=1e300),
        kind=st.just("some"),
        on=st.booleans(),
    ),
    parts=st.lists(st.builds(Part, st.text(), st.integers(1, 9)), max_size=3).map(tuple),
    sizes=st.lists(st.integers(1, 10**12), max_size=3).map(tuple),
    limit=st.none() | st.integers(0, 9),
    extra=st.dictionaries(st.text(), st.integers(), max_size=2),
)


@given(outers)
@example(Outer(extra={"A\x85\xd7": 1, "B\u2028": 2}))
def test_a_tree_survives_mapping_and_yaml(tmp_path_factory, tree):
    assert build(Outer, to_dict(tree)) == tree
    file = tmp_path_factory.getbasetemp() / "tree.yaml"
    file.write_text(to_yaml(tree), encoding="utf-8")
    assert build(Outer, read_yaml(file)) == tree


@given(outers)
def test_a_tree_is_built_again_from_its_leaves(tree):
    flat = flatten(tree)
    assert set(flat) == {leaf.name for leaf in leaves(Outer)}
    extra = flat.pop("extra")  # free keys may have dots of their own, which `merge` would read as places
    assert build(Outer, {**merge(flat), "extra": extra}) == tree


def test_leaves():
    found = {leaf.name: leaf for leaf in leaves(Outer)}
    assert list(found) == ["inner.rate", "inner.kind", "inner.on", "parts", "sizes", "limit", "extra"]
    assert found["inner.rate"].doc == "per second"
    assert found["inner.rate"].default == 0.5
    assert found["inner.kind"].choices == ("none", "some")
    assert found["parts"].default == (Part(),)


def test_merge():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a.b": 9}, {"e": {"f.g": 1}}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": {"f": {"g": 1}}}
    assert merge(base, {"a": {"b": 5}}, {"a.b": 6}) == {"a": {"b": 6, "c": 2}, "d": 3}
    assert merge({"a.b": 1}, {"a.c": 2}) == {"a": {"b": 1, "c": 2}}  # dotted keys in a file
    assert merge({"a": 1}, {"a.b": 2}) == {"a": {"b": 2}}
    assert merge({"a": {"b": 1}}, {"a": [1]}) == {"a": [1]}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}  # untouched


def test_merge_copies(tmp_path):
    base = {"a": {"b": {"c": 1}}}
    merge(base)["a"]["b"]["c"] = 2
    assert base == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", r"not valid YAML: .*line 1"),
        (b"- a\n- b\n", r"must hold a mapping of settings \(key: value\), not list"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"train:\n  lr: 1\ntrain:\n  lr: 2\n", r"the key 'train' stands twice .*line 3"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    file = tmp_path / "e.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value)


def test_an_unreadable_file(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        read_yaml(tmp_path)


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "e.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "e.yaml") == {}


def test_yaml_anchors_work(tmp_path):
    (tmp_path / "e.yaml").write_text("a: &x {b: 1}\nc: {<<: *x, d: 2}\n")
    assert read_yaml(tmp_path / "e.yaml") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


@given(outers)
def test_the_schema_accepts_every_tree(tree):
    import jsonschema

    jsonschema.validate(to_dict(tree) | {"limit": tree.limit or 0}, json_schema(Outer))


@pytest.mark.parametrize(
    "tree",
    [{"iner": {}}, {"inner": {"rate": 0}}, {"inner": {"kind": "sum"}}, {"sizes": [0]}, {"parts": [{"width": 10}]}],
)
def test_the_schema_refuses_what_build_refuses(tree):
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, json_schema(Outer))
    with pytest.raises(UserError):
        build(Outer, tree)


def test_a_part_may_be_a_dataclass():
    from symcere.config import Experiment, Model

    found = Experiment().replace({"model": Model(dim=16), "model.layers": 1}).model
    assert (found.dim, found.layers) == (16, 1)
    for wrong in (["train.lr"], 5):
        with pytest.raises(UserError, match="Settings are a mapping"):
            merge({}, wrong)


def test_one_thing_or_several():
    import numpy as np

    assert listed("hotels") == ["hotels"]
    assert listed(name for name in "ab") == listed(np.array(["a", "b"])) == ["a", "b"]
    assert (listed(None), listed(3), listed(np.array(3)), listed({"a": 1})) == ([], [3], [3], [{"a": 1}])
    assert [type(n) for n in listed(np.arange(2))] == [int, int]
