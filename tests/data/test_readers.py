"""Each source's format, from records as that source writes them, in every wrapping."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symcere.data.reviews import read
from symcere.data.schema import SCHEMA
from symcere.data.titles import titles
from symcere.errors import UserError

AMAZON_2018 = {
    "overall": 4.0, "vote": "1,341", "verified": True, "reviewTime": "02 28, 2014", "reviewerID": "A1", "asin": "B1",
    "style": {"Size:": " 7 oz"}, "reviewText": "Fits my <b>pump</b>", "summary": "ok", "unixReviewTime": 1393545600,
}  # fmt: skip
AMAZON_2023 = {
    "rating": 5.0, "title": "Five", "text": "Good<br />gasket", "images": [], "asin": "B2", "parent_asin": "P2",
    "user_id": "U2", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip
YELP = {
    "review_id": "r", "user_id": "U3", "business_id": "B3", "stars": 3.0, "useful": 0, "funny": 0, "cool": 0,
    "text": "Fine\n\nfood", "date": "2018-07-07 22:09:11",
}  # fmt: skip
YELP_TIP = {"user_id": "U3", "business_id": "B3", "text": "tip", "date": "2018-07-07 22:09:11", "compliment_count": 0}
YELP_BUSINESS = {"business_id": "B3", "name": "Bob's &amp; Son", "city": "X", "stars": 4.5, "review_count": 3}
YELP_USER = {"user_id": "U3", "name": "Ann", "review_count": 3, "average_stars": 4.0}
GOOGLE = {
    "user_id": "108", "name": "Ann", "time": 1566331951619, "rating": 5, "text": None, "pics": None, "resp": None,
    "gmap_id": "0x80:0x1",
}  # fmt: skip
HOTEL_URL = "Hotel_Review-g1-d2-Reviews-Hotel_Baltic-Giulianova_Abruzzo.html"
HOTELREC = {
    "hotel_url": HOTEL_URL, "author": "violetta", "date": "2019-01-01T00:00:00", "rating": 4.0, "title": "t",
    "text": "Nice {beach}, \"quoted\"", "property_dict": {"sleep quality": 4.0},
}  # fmt: skip
CMU = {
    "ratings": {"service": 5.0, "overall": 4.0}, "title": "t", "text": "Great", "author": {"id": "8C0B"},
    "date_stayed": "December 2012", "offering_id": 93338, "num_helpful_votes": 0, "date": "December 17, 2012", "id": 1,
}  # fmt: skip
LARA = (
    "<Author>dsHonolulu\r\n<Content>Nice Hotel showReview(1, 'full');\r\n<Date>Jan 3, 2009\r\n"
    "<Rating>3\t4\t-1\t4\t3\t4\t3\t4\t\r\n\r\n"
    "<Author>bella \r\n<Content>Large room\r\nsmall bed\r\n<Date>Dec 23, 2008\r\n<Rating>0\t-1\t-1\r\n\r\n"
)
LARA_RAW = (
    "<Overall Rating>4\n<Avg. Price>$302\n<URL>http://x\n\n<Author>everywhereman2 \n<Content>Old seattle getaway\n"
    '<Date>Jan 6, 2009\n<img src="new.gif" alt="New"/>\n<No. Reader>-1\n<No. Helpful>-1\n<Overall>5\n<Value>5\n'
    "<Check in / front desk>5\n<Business service>5\n\n"
)


def rows(*sources, format="", columns=None):
    reviews = read(list(sources), format, columns)
    batches = list(reviews)
    assert all(batch.schema == SCHEMA for batch in batches)
    return pa.Table.from_batches(batches, SCHEMA).to_pylist(), reviews


def lines(*records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize(
    ("record", "format", "expected"),
    [
        (AMAZON_2018, "amazon", ("A1", "B1", 4.0, 1393545600, "Fits my <b>pump</b>")),
        (AMAZON_2023, "amazon-2023", ("U2", "P2", 5.0, 1588687728, "Good<br />gasket")),
        (YELP, "yelp", ("U3", "B3", 3.0, 1531001351, "Fine\n\nfood")),
        (GOOGLE, "google-local", ("108", "0x80:0x1", 5.0, 1566331951, "")),
        (HOTELREC, "hotelrec", ("violetta", HOTEL_URL, 4.0, 1546300800, 'Nice {beach}, "quoted"')),
        (CMU, "tripadvisor-cmu", ("8C0B", "93338", 4.0, 1355702400, "Great")),
    ],
)
@pytest.mark.parametrize("shape", ["lines", "array", "array-by-line", "pretty"])
def test_every_json_source_is_recognised_whatever_was_stated(tmp_path, record, format, expected, shape):
    twice = [record, record]
    text = {
        "lines": lines(*twice).decode(),
        "array": json.dumps(twice),
        "array-by-line": "[\n" + ",\n".join(map(json.dumps, twice)) + "\n]\n",
        "pretty": json.dumps(twice, indent=2),
    }[shape]
    file = tmp_path / "whatever.csv"
    file.write_text(text)
    found, reviews = rows(file, format="yelp")
    assert [tuple(list(row.values())[:5]) for row in found] == [expected] * 2
    assert [row["row"] for row in found] == [0, 1]
    assert reviews.format == format
    assert any("not yelp" in note for note in reviews.notes) == (format != "yelp")


@pytest.mark.parametrize("wrapping", ["folder", "tar", "tar.gz", "tar.xz", "zip", "zip-stored", "zip of tar.gz"])
def test_lara_takes_the_hotel_from_the_file_name(tmp_path, wrapping):
    inside = {"Texts/hotel_200_parsed.txt": LARA, "Texts/hotel_72572.dat": LARA_RAW, "Texts/.DS_Store": "junk"}
    source = tmp_path / "source"
    if wrapping == "folder":
        for name, text in inside.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(text.encode())
    elif wrapping.startswith("zip"):
        if wrapping == "zip of tar.gz":
            inside = {"deep/texts.tar": tarred(inside, "gz")}
        packing = zipfile.ZIP_STORED if wrapping == "zip-stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(source, "w", packing) as archive:
            for name, text in inside.items():
                archive.writestr(name, text)
    else:
        source.write_bytes(tarred(inside, wrapping[4:]))
    found, reviews = rows(source)
    assert [(r["user"], r["item"], r["time"], r["text"]) for r in found] == [
        ("dsHonolulu", "200", 1230940800, "Nice Hotel showReview(1, 'full');"),
        ("bella", "200", 1229990400, "Large room\nsmall bed"),
        ("everywhereman2", "72572", 1231200000, "Old seattle getaway"),
    ]
    assert found[0]["rating"] == 3
    assert found[1]["rating"] != found[1]["rating"], "0 means missing"
    assert found[2]["rating"] == 5
    assert reviews.format == "lara"
    assert reviews.counts["rows"] == reviews.counts["kept"] == 3


def tarred(files, compression="") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_lara_json_form(tmp_path):
    hotel = {
        "Reviews": [
            {"Ratings": {"Overall": "4.0"}, "Author": "a", "Content": "x", "Date": "Nov 4, 2008", "ReviewID": "UR1"},
            {"Ratings": {}, "Author": "b", "Content": "y", "Date": "Nov 5, 2008", "ReviewID": "UR2"},
        ],
        "HotelInfo": {"HotelID": "72572", "Name": "H"},
    }
    for n, indent in ((1, None), (2, 2)):
        (tmp_path / f"{n}.json").write_text(json.dumps(hotel, indent=indent))
    found, reviews = rows(tmp_path)
    assert [(r["user"], r["item"], r["text"]) for r in found] == [("a", "72572", "x"), ("b", "72572", "y")] * 2
    assert found[0]["rating"] == 4
    assert reviews.format == "lara"


def test_yelps_download_is_read_as_it_is_and_names_its_places(tmp_path):
    parts = {
        "yelp_academic_dataset_business.json": lines(YELP_BUSINESS),
        "yelp_academic_dataset_tip.json": lines(YELP_TIP),
        "yelp_academic_dataset_review.json": lines(YELP),
        "yelp_academic_dataset_user.json": lines(YELP_USER),
        "Dataset_User_Agreement.pdf": b"%PDF-1.4\0\0 not data",
    }
    source = tmp_path / "Yelp-JSON.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Yelp JSON/yelp_dataset.tar", tarred(parts, "gz"))
        archive.writestr("__MACOSX/Yelp JSON/._yelp_dataset.tar", b"\0\5\26\7junk")
    found, reviews = rows(source, format="yelp")
    assert [(r["user"], r["item"]) for r in found] == [("U3", "B3")]
    assert reviews.counts["files_skipped"] == 4
    assert any("tip.json" in note for note in reviews.notes)
    assert titles([source], {"B3"}, "yelp_academic_dataset_business.json") == {"B3": "Bob's & Son"}


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: pa.compress(data, "zstd", asbytes=True),
        lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:]),
        lambda data: bz2.compress(data[:40]) + bz2.compress(data[40:]),
        lambda data: gzip.compress(bz2.compress(data)),
        lambda data: gzip.compress(data) + b"\0" * 512,
    ],
    ids=["gzip", "bz2", "xz", "zstd", "two gzips", "two bz2", "bz2 in gzip", "padded gzip"],
)
def test_compressed_files_are_known_by_content(tmp_path, packed):
    file = tmp_path / "reviews.txt"
    file.write_bytes(packed(lines(*[AMAZON_2018 | {"reviewerID": f"A{n}"} for n in range(5000)])))
    found, reviews = rows(file)
    assert [row["user"] for row in found] == [f"A{n}" for n in range(5000)]
    assert reviews.bytes_read == reviews.bytes_total == file.stat().st_size
    assert not reviews.notes


def test_zip_written_as_a_stream(tmp_path):
    """A writer that cannot seek puts sizes and checksum behind each member."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hotel_1.txt", LARA)
        archive.writestr("hotel_2.txt", LARA)
    file = tmp_path / "x.zip"
    file.write_bytes(pipe.data)
    found, reviews = rows(file)
    assert [r["item"] for r in found] == ["1", "1", "2", "2"]
    assert not reviews.notes
    damaged = bytearray(pipe.data)
    damaged[damaged.index(b"PK\x07\x08") + 4] ^= 1
    file.write_bytes(damaged)
    assert any("checksum" in note for note in rows(file)[1].notes)


def test_an_archive_writes_nothing_and_follows_no_link(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("hotel_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        evil = tarfile.TarInfo("../../hotel_8.txt")
        evil.size = len(LARA)
        archive.addfile(evil, io.BytesIO(LARA.encode()))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(out.getvalue())
    found, _ = rows(tmp_path / "in" / "x.tar")
    assert {row["item"] for row in found} == {"8"}
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.tar"]


CSV = 'Customer ID,SKU,Stars,When,Review\n7,x,4.5,2020-01-02,"two\nlines, and ""quotes"""\n8,y,Like,01/02/2020,\n'


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tabs", "crlf", "bom", "utf-16", "jsonl", "parquet"])
def test_a_table_of_ones_own(tmp_path, kind):
    file = tmp_path / "table"
    between = {"semicolons": ";", "tabs": "\t"}.get(kind, ",")
    text = CSV.replace("lines,", "lines\0").replace(",", between).replace("lines\0", "lines,")
    records = [
        {"Customer ID": 7, "SKU": "x", "Stars": 4.5, "When": "2020-01-02", "Review": 'two\nlines, and "quotes"'},
        {"Customer ID": 8, "SKU": "y", "Stars": "Like", "When": "01/02/2020"},
    ]
    if kind == "parquet":
        table = pa.table({
            "Customer ID": [7, 8], "SKU": ["x", "y"], "Stars": ["4.5", "Like"], "tags": [["a"], []],
            "When": pa.array([1577923200 * 10**9 + 1] * 2, pa.timestamp("ns")), "Review": [records[0]["Review"], None],
        })  # fmt: skip
        pq.write_table(table, file)
    elif kind == "jsonl":
        file.write_bytes(lines(*records))
    else:
        encoding = {"bom": "utf-8-sig", "utf-16": "utf-16"}.get(kind, "utf-8")
        file.write_bytes((text.replace("\n", "\r\n") if kind == "crlf" else text).encode(encoding))
    found, reviews = rows(file, columns={"item": "SKU", "time": "When"})
    assert [(r["user"], r["item"], r["time"], r["text"]) for r in found] == [
        ("7", "x", 1577923200, 'two\nlines, and "quotes"'),
        ("8", "y", 1577923200, ""),
    ]
    assert found[0]["rating"] == 4.5
    assert found[1]["rating"] != found[1]["rating"]
    assert reviews.counts["bad_rating"] == 1
    assert reviews.format == "generic"


def test_tabs_without_quoting(tmp_path):
    """Amazon's TSV files do not quote: a quotation mark there is a letter."""
    file = tmp_path / "reviews.tsv"
    file.write_text('customer_id\tproduct_id\tstar_rating\treview_body\n1\ta\t5\t"odd\n2\tb\t4\t5" tape\n3\tc\t3\tx\n')
    found, _ = rows(file)
    assert [r["text"] for r in found] == ['"odd', '5" tape', "x"]


def test_parquet_of_a_known_source(tmp_path):
    pq.write_table(pa.Table.from_pylist([AMAZON_2023]), tmp_path / "a.parquet")
    (row,), reviews = rows(tmp_path / "a.parquet")
    assert (row["user"], row["item"], row["time"]) == ("U2", "P2", 1588687728)
    assert reviews.format == "amazon-2023"
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no readable Parquet"):
        rows(tmp_path / "a.parquet")


def test_a_text_of_several_strings_in_parquet(tmp_path):
    columns = {"user": ["1"], "item": ["x"], "rating": [4], "parts": [["Fits", "well."]], "vector": [[0.5, 1.5]]}
    types = {"photo": pa.array([b"\xff"], pa.binary(1))}
    pq.write_table(pa.table(columns | types), tmp_path / "a.parquet")
    (row,), _ = rows(tmp_path / "a.parquet", columns={"text": "parts"})
    assert row["text"] == "Fits well."
    with pytest.raises(UserError, match=r"no column 'vector'.*Found: user, item, rating, parts\."):
        rows(tmp_path / "a.parquet", columns={"text": "vector"})


def test_parquet_of_old_writers_and_dates_that_mean_never(tmp_path):
    """Bytes that are text are one; a column of other bytes is empty; the year 9999 or 10000 is no date."""
    never = [253402300799, 253402300800, 1577836800]
    columns = {
        "user": pa.array([b"ann", "bo\u00eb".encode(), b"cy"], pa.binary()),
        "item": ["x", "y", "z"],
        "text": pa.array([b"fine", b"good", None], pa.large_binary()),
        "photo": pa.array([b"\xff\0", b"\xfe", b"a"], pa.binary()),
        "said": pa.array([b"fine", b"tr\xe8s bon", None], pa.binary()),
        "timestamp": pa.array([s * 10**6 for s in never], pa.timestamp("us", "Europe/Berlin")),
        "day": pa.array([s // 86400 for s in never], pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found, reviews = rows(tmp_path / "a.parquet")
    assert [(row["user"], row["text"]) for row in found] == [("ann", "fine"), ("bo\u00eb", "good"), ("cy", "")]
    assert [row["time"] for row in found] == [None, None, 1577836800]
    found, _ = rows(tmp_path / "a.parquet", columns={"time": "day", "text": "photo"})
    assert [(row["time"], row["text"]) for row in found] == [(None, ""), (None, ""), (1577836800, "")]
    assert reviews.counts["bad_time"] == 2
    found, reviews = rows(tmp_path / "a.parquet", columns={"text": "said"})
    assert [row["text"] for row in found] == ["fine", "tr\u00e8s bon", ""]
    assert reviews.counts["encoding"] == 1


def test_a_source_with_other_names_for_some_columns(tmp_path):
    """Made from Amazon's file: the keys that tell the source are there, those of text and time are not."""
    path = tmp_path / "a.csv"
    path.write_text("reviewerID,asin,overall,timestamp,text\nU,P,4,1577836800,good\n")
    (row,), reviews = rows(path)
    assert (row["user"], row["time"], row["text"]) == ("U", 1577836800, "good")
    path.write_text("reviewerID,asin,overall,when,said\nU,P,4,1577836800,good\n")
    _, reviews = rows(path)
    for role in ("time", "text"):
        assert any(f"no column for the {role}" in note for note in reviews.notes)


def test_the_first_of_two_columns_with_one_name(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,text,text,text\nann,x,good,other,third\n")
    assert rows(tmp_path / "a.csv", columns={"text": "text (3)"})[0][0]["text"] == "third"
    assert rows(tmp_path / "a.csv")[0][0]["text"] == "good"
    assert rows(tmp_path / "a.csv", columns={"text": "text (2)"})[0][0]["text"] == "other"


@pytest.mark.parametrize("before", ["sep=;\n", "\n\n", "sep=;\r\n\r\n"])
def test_lines_before_the_header(tmp_path, before):
    (tmp_path / "a.csv").write_text(before + 'user;item;text\nann;x;"good, really"\n')
    (row,), _ = rows(tmp_path / "a.csv")
    assert (row["user"], row["text"]) == ("ann", "good, really")


@pytest.mark.parametrize("content", ["user,item,text\rann,x,good\r", f"user,item,{'t' * (1 << 21)}\nann,x,good\n"])
def test_a_header_that_cannot_be_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode())
    with pytest.raises(UserError, match="first line of the table cannot be read"):
        rows(tmp_path / "a.csv")


def test_a_quote_that_is_never_closed_counts_what_it_swallowed(tmp_path):
    good = "".join(f"u{n},i{n},fine\n" for n in range(50))
    (tmp_path / "a.csv").write_text(f'user,item,text\nu,i,ok\nv,j,"broken\n{good}w,k,"quo,ted"\nx,l,ok\n')
    found, reviews = rows(tmp_path / "a.csv")
    assert [row["user"] for row in found] == ["u", "x"]
    assert (reviews.counts["rows"], reviews.counts["bad_row"]) == (54, 52)


def test_a_wrong_row_of_many_lines_is_one_row(tmp_path):
    good = '"one, with\nmany\nlines, in\nit"'
    (tmp_path / "a.csv").write_text(f"user,item,text\nu,i,{good},more\nv,j,fine\nw,k,{good[:-4]}")
    found, reviews = rows(tmp_path / "a.csv")
    assert [row["user"] for row in found] == ["v"]
    assert [reviews.counts[kind] for kind in ("rows", "bad_row", "truncated")] == [3, 1, 1]


def test_an_archive_whose_only_table_has_no_ratings(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/ABOUT.txt", "one: two, three\nfour, five: six\nseven\n")
        archive.writestr("data/reviews.csv", "user,item,text\nann,x,good\n")
    (row,), reviews = rows(tmp_path / "a.zip")
    assert (row["user"], row["text"]) == ("ann", "good")
    assert reviews.counts["rows"] == 1  # the lines of the other file are no lost reviews
    assert any("ABOUT.txt" in note and "left out" in note for note in reviews.notes)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("data/tips.csv", "user,item,text,likes\nann,x,tip,3\n")
        archive.writestr("data/more.csv", "user,item,text\nbob,x,fine\n")
    found, _ = rows(tmp_path / "a.zip")
    assert [row["user"] for row in found] == ["ann", "bob"]  # other columns are another table


REVIEW = {"user": "ann", "item": "x", "rating": 4, "text": "good"}


def without(*names, **other):
    return {name: value for name, value in (REVIEW | other).items() if name not in names}


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ({"part-0": REVIEW, "part-1": without("rating"), "part-2": REVIEW}, "012"),
        ({"part-0": without("rating"), "part-1": REVIEW, "part-2": without("rating", photo="p")}, "120"),
        ({"part-0": without("rating"), "part-1": without("rating", photo="p")}, "01"),
        ({"part-00000-3f1c-c000": REVIEW | {"vote": 2}, "part-00001-7bde-c000": without("rating", photo="p")}, "01"),
        ({"a": REVIEW | {"vote": 2}, "b": REVIEW}, "01"),
        ({"part-0": AMAZON_2018, "part-1": {k: v for k, v in AMAZON_2018.items() if k != "overall"}}, "01"),
    ],
)
@pytest.mark.parametrize("wrapping", ["folder", "zip"])
def test_parts_in_which_a_column_is_empty_are_read(tmp_path, parts, kept, wrapping):
    """Spark leaves such a column out of a part; rows come in the order of the parts, those before the first whole one
    at the end."""
    source = tmp_path / "parts"
    files = {
        f"data/{name}.json": lines(record | {"reviewerID" if "asin" in record else "user": str(n)})
        for n, (name, record) in enumerate(parts.items())
    }
    if wrapping == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    found, reviews = rows(source)
    assert [row["user"] for row in found] == list(kept)
    assert [row["row"] for row in found] == list(range(len(kept)))
    assert (reviews.counts["rows"], reviews.counts["files_skipped"]) == (len(kept), 0)
    assert reviews.bytes_read == reviews.bytes_total
    assert not any("left out" in note for note in reviews.notes)


@pytest.mark.parametrize(
    ("names", "other"),
    [(("reviews", "tips"), without("rating")), (("reviews_a1", "reviews_b2"), without("rating", photo="p"))],
)
def test_tips_are_no_part_of_the_reviews(tmp_path, names, other):
    """Though all their columns are those of reviews; letters in a name are no numbers."""
    for name, record in zip(names, (REVIEW | {"vote": 2}, other), strict=True):
        (tmp_path / f"{name}.json").write_bytes(lines(record))
    found, reviews = rows(tmp_path)
    assert (len(found), found[0]["rating"], reviews.counts["files_skipped"]) == (1, 4, 1)


def test_a_named_column_may_be_empty_in_a_part(tmp_path):
    for n, record in enumerate((REVIEW | {"given": 5}, REVIEW, REVIEW | {"given": 3})):
        (tmp_path / f"part-{n}.json").write_bytes(lines(record))
    found, reviews = rows(tmp_path, columns={"rating": "given"})
    assert [row["rating"] for row in found if row["rating"] == row["rating"]] == [5, 3]
    assert len(found) == 3
    assert any("part-1.json has no column for the rating" in note for note in reviews.notes)


def test_what_is_left_out_of_a_folder_says_why(tmp_path):
    (tmp_path / "part-0.json").write_bytes(lines(REVIEW))
    (tmp_path / "part-1.json").write_bytes(lines(without("text")))
    (tmp_path / "tips.json").write_bytes(lines(without("rating", likes=3)))
    found, reviews = rows(tmp_path)
    assert len(found) == 1
    (note,) = [note for note in reviews.notes if "left out" in note]
    assert f"part-1.json (no column for the text), {tmp_path.name}/tips.json (no column for the rating)." in note
    (tmp_path / "part-0.json").write_bytes(lines(without("rating")))
    found, reviews = rows(tmp_path)
    (note,) = [note for note in reviews.notes if "left out" in note]
    assert "tips.json (other columns: likes)." in note
    assert not any("tips.json has no column" in note for note in reviews.notes), "nothing is said of what is not read"


@pytest.mark.parametrize("between", [",", "\t"])
def test_a_table_whose_quotes_are_escaped(tmp_path, between):
    """As Spark writes it. Some rows would be wider or narrower otherwise, and others not what was written."""
    said = [
        'a "b" c',
        f'they said "hi"{between} or',
        '"',
        r"C:\new",
        "ends with \\",
        'both \\"',
        f'"{between}"',
        'a\n"b"\nc',
        "",
    ]
    texts = [said[n % len(said)] if n % 3 else "plain" for n in range(200)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=between, escapechar="\\", doublequote=False, quoting=csv.QUOTE_ALL)
        writer.writerows([["user", "item", "text"], *([f"u{n}", "x", text] for n, text in enumerate(texts))])
    found, reviews = rows(tmp_path / "a.csv")
    assert [row["text"] for row in found] == texts
    assert [reviews.counts[kind] for kind in ("rows", "bad_row", "truncated")] == [200, 0, 0]
    whole = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(whole + f'"u"{between}"x"{between}"cut \\" here')
    found, reviews = rows(tmp_path / "a.csv")
    assert (len(found), reviews.counts["truncated"]) == (200, 1)
    lone = [r"C:\new\t", r"say \"no\""]
    (tmp_path / "a.csv").write_text("user,item,text\n" + "".join(f'u,"x","{text}"\n' for text in lone * 2))
    assert [row["text"] for row in rows(tmp_path / "a.csv")[0]] == [r"C:\new\t", 'say "no"'] * 2


@pytest.mark.parametrize("damage", ["", "v,y\n", 'v,y,"odd" quote\n', "v,y,one,more\n"])
def test_a_backslash_is_a_letter_in_an_ordinary_table(tmp_path, damage):
    """Before the quote that ends a field, and before two that stand for one, even where some row is wrong."""
    texts = ["ends with \\", 'both \\"', r"C:\new", '\\"', 'a "b"', "a, b\\"] * 20
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(["u", "x", text] for text in texts)
    (tmp_path / "a.csv").write_text('user,item,text\nu,x,"first \\"\n' + damage + out.getvalue())
    found, _ = rows(tmp_path / "a.csv")
    assert [row["text"] for row in found if row["user"] == "u"] == ["first \\", *texts]


def test_a_few_zeros_in_a_table_are_debris(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("user,item,text\n" + "ann,x,go\0od indeed\n" * 3)
    for source in (tmp_path, tmp_path / "a.csv"):
        found, reviews = rows(source)
        assert {row["text"].replace("\0", "") for row in found} == {"good indeed"}
        assert not reviews.counts["files_skipped"]
    (tmp_path / "b.csv").write_text("user,item,text\n" + "ann,x,\0\1\2\n" * 3)
    assert rows(tmp_path)[1].counts["files_skipped"] == 1


@pytest.mark.parametrize(
    ("rows_", "says"),
    [
        ("1,ann,x,good\n2,bob,y,fine\n", "its header names 3 columns, and its rows have 4."),
        ("ann,x,good,\n", "its header names 3 columns, and its rows have 4."),
        ("ann,x\nbob\nann\n", "its header names 3 columns, and its rows have 1 to 2."),
        ("", "nothing in it could be read"),
    ],
)
def test_rows_of_another_width_than_the_header_are_said(tmp_path, rows_, says):
    (tmp_path / "a.csv").write_text("user,item,text\n" + rows_)
    with pytest.raises(UserError) as error:
        rows(tmp_path / "a.csv")
    assert says in str(error.value)


@pytest.mark.parametrize("kind", ["stream", "feather", "sqlite"])
def test_files_of_other_programs_are_named(tmp_path, kind):
    path, table = tmp_path / "data", pa.table({"user": ["a"], "item": ["x"], "text": ["t"]})
    path.mkdir()
    file = path / "reviews.any"
    if kind == "sqlite":
        with sqlite3.connect(file) as database:
            database.execute("create table reviews (user, item, text)")
        database.close()
    else:
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(str(file), table.schema) as writer:
            writer.write_table(table)
    (path / "state.json").write_text('{\n "_format": null\n}')
    says = {"stream": "to_parquet", "feather": "read_feather", "sqlite": "sqlite3 -header -csv"}[kind]
    for source in (path, file):
        with pytest.raises(UserError, match=rf"reviews\.any is an? .*{says}"):
            rows(source)
    (path / "ours.csv").write_text("user,item,text\na,x,t\n")
    assert len(rows(path)[0]) == 1


@pytest.mark.parametrize(
    "when",
    [
        {"$date": "2020-01-01T00:00:00Z"},
        {"$date": "2020-01-01T00:00:00.000+0000"},
        {"$date": 1577836800000},
        {"$date": {"$numberLong": "1577836800000"}},
        "2020-01-01",
    ],
)
def test_typed_values_of_mongodb(tmp_path, when):
    records = [
        {"customer": {"$oid": "5f1a"}, "product": {"$numberLong": "12"}, "rating": {"$numberInt": "4"}, "date": when},
        {"customer": "anna", "product": 12, "rating": {"$numberDouble": "4.5"}, "date": None},
        {"customer": {"$oid": "5f1b", "name": "x"}, "product": {"$numberLong": "12"}, "rating": 3, "date": when},
    ]
    (tmp_path / "a.json").write_bytes(lines(*(record | {"text": "t"} for record in records)))
    found, reviews = rows(tmp_path / "a.json")
    assert [(row["user"], row["item"], row["rating"], row["time"]) for row in found] == [
        ("5f1a", "12", 4.0, 1577836800),
        ("anna", "12", 4.5, None),
    ]
    assert reviews.counts["no_user"] == 1, "a record of more than the type is none"
    (tmp_path / "meta.json").write_bytes(lines({"_id": 1, "product": {"$numberLong": "12"}, "title": "Pump"}))
    assert titles([tmp_path / "a.json"], {"12"}, str(tmp_path / "meta.json")) == {"12": "Pump"}


def test_columns_named_over_a_known_source_and_into_nested_records(tmp_path):
    (tmp_path / "a").write_bytes(lines(AMAZON_2018))
    (row,), reviews = rows(tmp_path / "a", columns={"text": "summary", "item": "style.Size:"})
    assert (row["text"], row["item"]) == ("ok", "7 oz")
    assert reviews.format == "amazon"


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (lines({"parent_asin": "P", "title": " A \n pump ", "author": {"name": "x"}, "description": ["d"]}), "A pump"),
        (b"{'asin': 'P', 'title': 'Bob\\'s', 'price': 3.5}\n", "Bob's"),
        (lines({"gmap_id": "P", "name": "Diner", "description": None, "avg_rating": 4.1}), "Diner"),
        (lines({"id": "P", "name": "Hotel", "hotel_class": 4.0, "url": "u"}), "Hotel"),
        (b"item_id,item_title\nP,Thing\n", "Thing"),
        (b"user,item,rating,text,title,item_title\nu,P,3,x,my review,Thing\n", "Thing"),
        (lines({"asin": "P", "title": "<span id='x'"}), None),
        (lines(AMAZON_2023 | {"parent_asin": "P"}), None),
    ],
)
def test_titles(tmp_path, meta, expected):
    (tmp_path / "reviews.json").write_bytes(lines(AMAZON_2018))
    (tmp_path / "meta.json").write_bytes(meta + meta.replace(b"P", b"other"))
    found = titles([tmp_path / "reviews.json"], ["P"], "https://host/meta.json")
    assert found == ({"P": expected} if expected else {})


def test_titles_of_items_with_long_numbers(tmp_path):
    """Two that are one when they are rounded."""
    ids = [101463350189962023774, 101463350189962023775]
    (tmp_path / "meta.json").write_bytes(lines(*({"id": number, "name": f"Item {number % 10}"} for number in ids)))
    assert titles([tmp_path / "meta.json"], set(map(str, ids))) == dict(
        zip(map(str, ids), ["Item 4", "Item 5"], strict=True)
    )


def test_titles_of_hotelrec_are_in_the_address(tmp_path):
    (tmp_path / "r").write_bytes(lines(HOTELREC))
    assert titles([tmp_path / "r"], {HOTEL_URL}) == {HOTEL_URL: "Hotel Baltic, Giulianova Abruzzo"}


@pytest.mark.parametrize(
    ("name", "rows_", "users", "items", "pairs", "empty"),
    [
        ("reviews_Musical_Instruments_5.json.gz", 10261, 1429, 900, 10261, 7),
        ("Magazine_Subscriptions_5.json.gz", 2375, 348, 157, 2302, None),
        ("All_Beauty_5.json.gz", 5269, 991, 85, 4092, None),
        ("AMAZON_FASHION_5.json.gz", 3176, 406, 31, 3042, 16),
        ("Appliances_5.json.gz", 2277, 47, 48, 183, None),
        ("tripadvisor_lara_3core.jsonl.gz", 22123, 5883, 1493, 22105, None),
        ("tripadvisor_lara_150hotels.tar.gz", 51063, None, 150, None, None),
    ],
)
def test_real_files_have_their_known_counts(shared_data, name, rows_, users, items, pairs, empty):
    reviews = read([shared_data / name])
    table = pa.Table.from_batches(list(reviews)).combine_chunks()
    user, item = table["user"].to_pylist(), table["item"].to_pylist()
    assert (len(table), reviews.counts["kept"], len(set(item))) == (rows_, rows_, items)
    assert users in (None, len(set(user)))
    assert pairs in (None, len(set(zip(user, item, strict=True))))
    assert empty in (None, table["text"].to_pylist().count(""))
    assert table["time"].null_count == 0
    assert reviews.notes == []
    assert reviews.bytes_read == reviews.bytes_total
