"""Cards: those that come along are valid, those of one's own are easy, and both are found from anywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from symcere.config.fields import json_schema, to_dict
from symcere.data import cards as module
from symcere.data.cards import Card, cards, find, own
from symcere.data.readers import FORMATS
from symcere.data.reviews import read
from symcere.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

PLATFORM = """
    amazon-2023-musical-instruments amazon-2023-automotive amazon-2023-office-products
    amazon-2023-industrial-and-scientific amazon-2023-video-games amazon-2023-arts-crafts-and-sewing
    amazon-2023-baby-products amazon-2023-software amazon-2023-cds-and-vinyl
    yelp google-local-hawaii google-local-alaska
    hotelrec tripadvisor-lara tripadvisor-cmu
""".split()  # noqa: SIM905
CLASSICS = """
    amazon-2014-musical-instruments amazon-2018-gift-cards amazon-2018-magazine-subscriptions amazon-2018-all-beauty
    amazon-2018-fashion amazon-2018-appliances
""".split()  # noqa: SIM905


def test_all_cards_are_there():
    assert {card.name for card in cards()} == {*PLATFORM, *CLASSICS, "synthetic"}
    platforms = [find(name).platform for name in PLATFORM]
    assert platforms == ["e-commerce"] * 9 + ["local"] * 3 + ["travel"] * 3


@pytest.mark.parametrize("name", [*PLATFORM, *CLASSICS])
def test_a_card_says_what_a_person_needs(name):
    card = find(name)
    assert card.title
    assert card.licence
    assert card.citation
    assert card.by_hand, "even an address fails one day"
    assert card.format in FORMATS
    assert card.data.dataset == name


def test_the_schema_is_the_one_of_the_class_and_every_card_keeps_to_it():
    schema = json.loads((ROOT / "datasets" / "schema.json").read_text())
    assert schema == json.loads(json.dumps(json_schema(Card))), "write it anew from symcere.data.cards.Card"
    for path in (ROOT / "datasets").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_readme_names_every_format():
    text = (ROOT / "datasets" / "README.md").read_text()
    assert [format for format in FORMATS if f"`{format}`" not in text] == []


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UserError, match=r"Unknown data set 'yelpp'.*Did you mean yelp"):
        find("yelpp")
    with pytest.raises(UserError, match=r"amazon-2014-musical-instruments or amazon-2023-musical-instruments"):
        find("musical-instruments")
    with pytest.raises(UserError, match="There is no card"):
        find("nowhere/card.yaml")
    assert find("video-games").name == "amazon-2023-video-games"


def test_four_lines_make_a_card_for_ones_own_table(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "reviews.csv").write_text("customer,sku,rating,text\nann,pump,5,fits\n")
    (folder / "my-shop.yaml").write_text(
        "title: Orders of my shop\nfiles: [reviews.csv]\ncolumns: {user: customer, item: sku}\ndata: {core: 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    card = find("shop/my-shop.yaml")
    monkeypatch.chdir("/")
    assert (card.name, card.data.core, card.data.dataset) == ("my-shop", 3, "my-shop")
    (batch,) = read(card.sources(), card.format, card.columns)
    assert (batch["user"].to_pylist(), batch["item"].to_pylist()) == (["ann"], ["pump"])
    (folder / "reviews.csv").unlink()
    with pytest.raises(UserError, match=r"names .*reviews\.csv, but there is no such file"):
        card.sources()


def test_flags_alone_make_a_card(tmp_path):
    (tmp_path / "r.csv").write_text("who,item,rating,text\nann,pump,5,fits\n")
    card = own("shop", [tmp_path / "r.csv"], columns={"user": "who"})
    (batch,) = read(card.sources(), card.format, card.columns)
    assert batch["user"].to_pylist() == ["ann"]
    assert card.data.dataset == "shop"


def test_split_files_are_found_beside_the_card(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {split: {kind: files, files: given}}\n")
    assert find(tmp_path / "c.yaml").data.split.files == str(tmp_path / "given")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tilte: x\n", "Unknown setting 'tilte'. Did you mean title"),
        ("data: {core: 0}\n", "data.core"),
        ("data: {minwords: 0}\n", "data.minwords"),
        ("platform: shop\n", "'platform' cannot be 'shop'"),
        ("urls: [ftp://x/y]\n", "no http"),
        ("urls: [http://x/2019/a.csv, 'http://x/2020/a.csv?raw=1']\n", "two files are called a.csv"),
        ("columns: {user: 0, item: sku}\n", "the column of the user is a name, not 0"),
        ("sha256: {a.gz: 12ab}\n", "64 hexadecimal"),
        ("title: [\n", "not valid YAML"),
    ],
)
def test_a_card_that_is_wrong_says_where(tmp_path, text, says):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        find(path)
    assert says in str(error.value)
    assert "wrong.yaml" in str(error.value)


def test_what_lies_in_the_cards_folder_is_found(home):
    card = find("yelp")
    assert card.sources() == []
    card.folder.mkdir(parents=True)
    (card.folder / "Yelp-JSON.zip").write_text("x")
    (card.folder / ".Yelp-JSON.zip.json").write_text("{}")
    (card.folder / "yelp_academic_dataset_business.json").write_text("titles are no reviews")
    assert [path.name for path in card.sources()] == ["Yelp-JSON.zip"]
    card = find("google-local-alaska")
    card.folder.mkdir(parents=True)
    (card.folder / ".review-Alaska_10.json.gz.part").write_text("half")
    assert card.sources() == []
    (card.folder / "review-Alaska_10.json.gz").write_text("whole")
    assert [path.name for path in card.sources()] == ["review-Alaska_10.json.gz"]


def test_a_card_is_a_value():
    card = find("yelp")
    assert to_dict(card)["data"]["core"] == card.data.core
    assert find("yelp") == card


def python(code, **other):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **other)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_cards_need_nothing_heavy():
    code = """
import sys
import symcere.data.cards, symcere.data.fetch
symcere.data.cards.cards()
print([name for name in ("torch", "numpy", "pyarrow", "transformers", "duckdb") if name in sys.modules])
"""
    assert python(code) == "[]"


EVERYTHING = """
import importlib, pkgutil, sys
assert sys.path[0] == "", sys.path
import symcere
for module in pkgutil.walk_packages(symcere.__path__, "symcere."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from transformers import AutoModel, AutoTokenizer
"""


def test_the_folder_datasets_is_not_taken_for_hugging_faces_package():
    """From the root, ``import datasets`` finds our folder; whoever probes for the package must do without."""
    assert not list((ROOT / "datasets").rglob("*.py"))
    assert not list((ROOT / "tune").rglob("*.py"))
    code = EVERYTHING + "print(getattr(sys.modules.get('datasets'), 'Dataset', None))"
    assert python(code, cwd=ROOT) == "None"


@pytest.mark.slow
def test_the_folder_datasets_does_not_disturb_the_large_libraries():
    code = (
        EVERYTHING + "import mlflow.pyfunc, optuna, ray.data, ray.train.torch, ray.tune, torch_geometric.data, sklearn"
    )
    python(code, cwd=ROOT)


def test_a_wheel_carries_the_cards(tmp_path):
    checkout, built = tmp_path / "checkout", tmp_path / "built"
    checkout.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("symcere", "datasets", "tune"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, checkout)
    built.mkdir()
    python(f"import setuptools.build_meta as b; b.build_wheel({str(built)!r})", cwd=checkout)
    (wheel,) = built.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    assert sorted(p.name for p in (tmp_path / "installed").iterdir() if not p.name.endswith("dist-info")) == ["symcere"]
    code = "from symcere.data import cards as c; print(c.folder(), *[x.name for x in c.cards()])"
    found = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}).split()
    assert Path(found[0]) == tmp_path / "installed" / "symcere" / "_datasets"
    assert found[1:] == [card.name for card in cards()]
    packed = {p.name for p in (tmp_path / "installed" / "symcere").glob("_tune/*.yaml")}
    assert packed == {p.name for p in (ROOT / "tune").glob("*.yaml")}


def test_the_checkout_comes_before_the_packaged_copy():
    assert module.folder() == ROOT / "datasets"
