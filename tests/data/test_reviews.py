"""What a stream of reviews promises: every loss counted and said, nothing guessed, bounded memory."""

import bz2
import functools
import gzip
import io
import json
import lzma
import math
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symcere.data.opening import Stream, members
from symcere.data.reviews import CHARACTERS, DROPPED, LOSSES, read
from symcere.data.schema import SCHEMA
from symcere.errors import UserError


def line(n, **other):
    return json.dumps({"user": f"u{n}", "item": f"i{n % 7}", "rating": 4, "text": f"text {n}", "time": n} | other)


def rows(*sources, format="", columns=None):
    reviews = read(list(sources), format, columns)
    found = pa.Table.from_batches(list(reviews), SCHEMA).to_pylist()
    counts = reviews.counts
    assert counts["kept"] == len(found)
    assert counts["rows"] == counts["kept"] + sum(counts[kind] for kind in DROPPED), "every row is accounted for"
    positions = [row["row"] for row in found]
    assert positions == sorted(set(positions)), "positions rise with the file"
    return found, reviews


def write(tmp_path, content, name="reviews.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------- losses


def test_a_last_line_cut_in_the_middle_is_counted(tmp_path):
    path = write(tmp_path, "\n".join(line(n) for n in range(10))[:-5])
    found, reviews = rows(path)
    assert len(found) == 9
    assert reviews.counts["truncated"] == 1
    assert any("line 10" in note and "end in the middle" in note for note in reviews.notes)


def test_a_last_line_without_newline_is_a_review(tmp_path):
    found, reviews = rows(write(tmp_path, "\n".join(line(n) for n in range(10))))
    assert len(found) == 10
    assert reviews.notes == []


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bz2", "tar.gz", "zip", "tar"])
def test_an_archive_cut_short_gives_what_was_complete(tmp_path, kind):
    noise = np.random.default_rng(0)  # does not compress away
    lines = [line(n, text=noise.bytes(100).hex()) for n in range(4000)]
    data = ("\n".join(lines) + "\n").encode()
    if kind.startswith("tar"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            entry = tarfile.TarInfo("r.jsonl")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        packed = out.getvalue()
    elif kind == "zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("r.jsonl", data)
        packed = out.getvalue()
    else:
        pack = {
            "gzip": gzip.compress,
            "xz": functools.partial(lzma.compress, preset=0),
            "bz2": functools.partial(bz2.compress, compresslevel=1),
        }
        packed = pack[kind](data) if kind in pack else pa.compress(data, "zstd", asbytes=True)
    path = write(tmp_path, packed[: len(packed) * 6 // 10], "reviews." + kind)
    found, reviews = rows(path)
    assert [row["user"] for row in found] == [f"u{n}" for n in range(len(found))]
    assert 1500 < len(found) < 2450, "about six tenths are there"
    assert reviews.counts["truncated"] <= 1
    assert reviews.counts["cut_files"] == 1
    assert any("kept" in note and "lost" in note for note in reviews.notes)


def test_damage_in_the_middle_of_gzip(tmp_path):
    data = bytearray(gzip.compress(("\n".join(line(n) for n in range(50000)) + "\n").encode(), 1))
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    found, reviews = rows(write(tmp_path, bytes(data)))
    assert 0 < len(found) < 50000
    assert any("damaged gzip" in note for note in reviews.notes)


def test_lara_cut_short_loses_only_the_open_review(tmp_path):
    block = "<Author>a{n}\n<Content>text\n<Date>Dec 23, 2008\n<Rating>5\t1\n\n"
    data = gzip.compress("".join(block.format(n=n) for n in range(20000)).encode())
    path = write(tmp_path, data[: len(data) // 2], "hotel_7.txt.gz")
    found, reviews = rows(path)
    assert {row["item"] for row in found} == {"7"}
    assert all(row["rating"] == 5 for row in found)
    assert reviews.counts["truncated"] == 1


def test_lines_that_are_no_object(tmp_path):
    content = "\n".join([line(0), "{broken", "", "[1, 2]", line(1), "null", line(2)]) + "\n"
    found, reviews = rows(write(tmp_path, content))
    assert [row["user"] for row in found] == ["u0", "u1", "u2"]
    assert reviews.counts["bad_json"] == 3
    assert any("3 lines" in note and "line 2" in note for note in reviews.notes)


def test_an_object_of_an_array_that_is_broken(tmp_path):
    parts = [line(0), '{"user": "x", oops}', line(1)]
    found, reviews = rows(write(tmp_path, "[" + ", ".join(parts) + "]"))
    assert [row["user"] for row in found] == ["u0", "u1"]
    assert reviews.counts["bad_json"] == 1


def test_an_array_larger_than_a_block_and_cut(tmp_path):
    whole = "[" + ", ".join(line(n, text='{[,"\\' * 50) for n in range(20000)) + "]"
    found, reviews = rows(write(tmp_path, whole))
    assert (len(found), reviews.notes) == (20000, [])
    assert found[0]["text"] == '{[,"\\' * 50
    found, reviews = rows(write(tmp_path, whole[: len(whole) // 2]))
    assert 9900 < len(found) < 10100
    assert reviews.counts["truncated"] == 1


def test_reviews_without_user_or_item_are_dropped_and_counted(tmp_path):
    lines = [line(0), line(1, user=None), line(2, user="  "), line(3, item=""), line(4, user="", item=None), line(5)]
    found, reviews = rows(write(tmp_path, "\n".join(lines)))
    assert [row["row"] for row in found] == [0, 5]
    assert (reviews.counts["no_user"], reviews.counts["no_item"]) == (3, 1)


def test_ratings_and_times_of_every_kind(tmp_path):
    values = [4.5, "3.5", "Like", None, "", " ", float("nan"), float("inf"), True, "4 stars", {"a": 1}]
    expected = [4.5, 3.5] + [math.nan] * 7 + [4.0, math.nan]
    lines = [line(n, rating=value) for n, value in enumerate(values)]
    found, reviews = rows(write(tmp_path, "\n".join(lines)))
    assert str([row["rating"] for row in found]) == str(expected)
    assert reviews.counts["bad_rating"] == 4, "Like, inf, True and a mapping; blanks are only absent"
    lines = [line(n, time=value) for n, value in enumerate([5, None, "5", "soon", "Dec 23, 2008", 1229990400123])]
    found, reviews = rows(write(tmp_path, "\n".join(lines)))
    assert [row["time"] for row in found] == [5, None, 5, None, 1229990400, 1229990400]
    assert reviews.counts["bad_time"] == 1


def test_ids_of_every_kind_and_texts_that_are_absent(tmp_path):
    records = ['{"user": 7, "item": 1.0, "rating": 1, "text": null}', '{"user": "7", "item": "1", "rating": 1}',
               '{"user": "a\\ud800b", "item": 12345678901234567890, "rating": 1, "text": "\\ud800"}']  # fmt: skip
    found, _ = rows(write(tmp_path, "\n".join(records)), columns={"time": ""})
    assert [(row["user"], row["item"], row["text"]) for row in found[:2]] == [("7", "1", "")] * 2
    assert found[2]["user"] == "a?b"


def test_whole_numbers_stay_whole_where_a_column_has_gaps(tmp_path):
    found, _ = rows(write(tmp_path, "user,item,rating,text\n1.0,5,3,a\n2,6.0,4,b\n"))
    assert [(row["user"], row["item"]) for row in found] == [("1.0", "5"), ("2", "6.0")], "text is not reinterpreted"


def test_what_is_not_utf8_keeps_different_names_apart(tmp_path):
    lines = [line(0), line(1, user="Müller"), line(2, user="Möller")]
    content = "\n".join(line.encode().decode("unicode_escape") for line in lines).encode("latin-1")
    found, reviews = rows(write(tmp_path, content))
    assert [row["user"] for row in found] == ["u0", "Müller", "Möller"]
    assert reviews.counts["encoding"] == 2
    csv = "user;item;rating;text\nMüller;x;3;café\n".encode("latin-1")
    found, reviews = rows(write(tmp_path, csv))
    assert (found[0]["user"], found[0]["text"]) == ("Müller", "café")
    assert reviews.counts["encoding"] == 1


def test_rows_of_the_wrong_width_and_an_open_quote(tmp_path):
    head = "user,item,rating,text\n"
    found, reviews = rows(write(tmp_path, head + "a,x,3,ok\nb,y\nc,z,3,no,more\nd,w,4,fine\n"))
    assert [row["user"] for row in found] == ["a", "d"]
    assert reviews.counts["bad_row"] == 2
    found, reviews = rows(write(tmp_path, head + 'a,x,3,ok\nb,y,4,"begins and\nnever ends'))
    assert [row["user"] for row in found] == ["a"]
    assert reviews.counts["truncated"] == 1
    found, reviews = rows(write(tmp_path, head + "a,x,3,ok\nb,y"))
    assert (len(found), reviews.counts["truncated"]) == (1, 1)
    found, _ = rows(write(tmp_path, head + 'a,x,3,ok\n\nb,y,4,"ends\n\nwell"\n'))
    assert found[1]["text"] == "ends\n\nwell"


def test_an_open_quote_does_not_swallow_the_whole_file(tmp_path):
    body = 'a,x,3,"open\n' + "".join(f"u{n},i,3,{'word ' * 20}\n" for n in range(40000))
    found, reviews = rows(write(tmp_path, "user,item,rating,text\n" + body))
    assert len(found) > 20000
    assert reviews.counts["bad_row"] + len(found) == 40001


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"Rar!\x1a\x07", "RAR"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "No reviews were recognised"),
        (b"just some words\nand more\n", "No reviews were recognised"),
        (b'{"a": 1, "item": 2, "b": 3}\n', "no column that is known to hold the user. Found: a, item, b"),
        (b"user,product_id,rating\n1,2,3\n", "--column text="),
        (b"user,thing,rating,text\n1,2,3,x\n", "--column item=NAME"),
        (b"user,item,rating,text\n", "holds no reviews"),
        (b'{"user": "a", "ite', "holds no reviews"),
        (b'{"user": "a", oops}\n{"user": "b", "c", oops}\n{}\n', "nothing in it could be read"),
        (gzip.compress(b"", mtime=0), "No reviews were recognised"),
        (gzip.compress(b'{"user": 1}' * 50, mtime=0)[:12], "Fetch it again"),
        (b"user,item,rating,text\n,x,3,a\n,y,3,b\n", "No usable review"),
        (b"PK\x05\x06" + b"\0" * 18, "No reviews were recognised"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, content, says):
    path = write(tmp_path, content, "reviews.json.gz")
    with pytest.raises(UserError) as error:
        rows(path)
    assert says in str(error.value)
    assert "reviews.json" in str(error.value)


def test_arguments_that_cannot_be_used_say_why(tmp_path):
    path = write(tmp_path, line(0))
    with pytest.raises(UserError, match="There is no file"):
        read([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        read([tmp_path / "empty"])
    with pytest.raises(UserError, match="Did you mean amazon"):
        read([path], "amazn")
    with pytest.raises(UserError, match="Did you mean user"):
        read([path], columns={"users": "x"})
    with pytest.raises(UserError, match=r"no column 'usr'.*Did you mean user"):
        rows(path, columns={"user": "usr"})
    with pytest.raises(UserError, match="--source"):
        read([])


def test_a_locked_archive(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("r.jsonl", line(0))
    data = bytearray(out.getvalue())
    data[6] |= 1
    with pytest.raises(UserError, match="encrypted"):
        rows(write(tmp_path, bytes(data)))


def test_archives_in_archives_have_an_end(tmp_path):
    data = line(0).encode()
    for _ in range(9):
        data = gzip.compress(data)
    with pytest.raises(UserError, match="nests archives"):
        rows(write(tmp_path, data))


# ---------------------------------------------------------------- the stream


def test_several_sources_count_on(tmp_path):
    first = write(tmp_path, line(0) + "\n" + line(1) + "\n", "a.jsonl")
    second = write(tmp_path, line(2) + "\n", "b.jsonl")
    found, _ = rows(first, second)
    assert [(row["user"], row["row"]) for row in found] == [("u0", 0), ("u1", 1), ("u2", 2)]


def test_a_second_pass_is_the_same(tmp_path):
    reviews = read([write(tmp_path, "\n".join([line(0), "oops", line(1)]))])
    first, counts, notes = list(reviews), dict(reviews.counts), list(reviews.notes)
    assert list(reviews) == first
    assert (dict(reviews.counts), reviews.notes) == (counts, notes)


def test_batches_are_bounded(tmp_path):
    path = write(tmp_path, "\n".join(line(n, text="x") for n in range(70000)))
    assert [len(batch) > 60000 for batch in read([path])] == [True, False]
    path = write(tmp_path, "\n".join(line(n, text="x" * 100000) for n in range(400)))
    sizes = [sum(map(len, batch["text"].to_pylist())) for batch in read([path])]
    assert sum(sizes) == 400 * 100000
    assert max(sizes) < CHARACTERS + (1 << 20), "long texts make shorter batches"


def test_memory_stays_bounded_whatever_an_archive_claims(tmp_path):
    """200 MiB of one line, packed into 1 MiB, are refused long before they are in memory."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b'{"user": "')
        for _ in range(200):
            file.write(b"a" * (1 << 20))
    code = f"""
import resource
from pathlib import Path
from symcere.data.reviews import read
from symcere.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(read([Path({str(path)!r})]))
except UserError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 300_000 * (1 if sys.platform != "darwin" else 1024)


def test_synthetic_reviews_come_through_the_same_door():
    reviews = read([], "synthetic", {"users": "60", "items": "30", "reviews": "300"})
    batches = list(reviews)
    assert all(batch.schema == SCHEMA for batch in batches)
    assert sum(map(len, batches)) == reviews.counts["kept"] == 300
    with pytest.raises(UserError, match=r"synthetic.userz"):
        list(read([], "synthetic", {"userz": 3}))


def test_every_loss_has_its_sentence():
    assert set(DROPPED) <= set(LOSSES)


def test_stream_looks_ahead_without_losing_anything():
    stream = Stream([b"ab", b"", b"cde", b"f\ng"], [])
    assert (stream.peek(3), stream.read(2), stream.peek(99)) == (b"abc", b"ab", b"cdef\ng")
    stream.push_back(b"\n")
    assert list(stream.lines()) == [([b"", b"cdef"], False), ([b"g"], True)]


def test_members_may_be_left_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(name, name * 3_000_000)
    assert [(m.stem, m.stream.read(2)) for m in members(tmp_path / "x.zip")] == [
        ("a", b"aa"),
        ("b", b"bb"),
        ("c", b"cc"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_early_dates_wait_for_those_that_tell_the_order(tmp_path, suffix):
    """Sorted by time, the days of the first batches are all up to the twelfth."""
    days = [datetime(2020, 1, 1 + n // 1500, tzinfo=UTC) for n in range(1500 * 20)]
    records = [(f"u{n}", f"i{n % 7}", day.strftime("%d/%m/%Y"), "a" * 1000) for n, day in enumerate(days)]
    names = ("user", "item", "date", "text")
    path = tmp_path / f"reviews.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(map(",".join, [names, *records])))
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, record, strict=True))) for record in records))
    found, reviews = rows(path)
    assert [row["time"] for row in found] == [int(day.timestamp()) for day in days]
    assert reviews.bytes_read == path.stat().st_size
    path.write_text("user,item,text,date\na,b,c,3/4/2020\nd,e,f,4/3/2020\n")
    found, reviews = rows(path)
    assert [datetime.fromtimestamp(row["time"], UTC).month for row in found] == [3, 4]
    assert any("month/day/year" in note for note in reviews.notes)


@pytest.mark.parametrize("form", ["lines", "array", "pretty"])
def test_names_that_are_not_utf_8_stay_different(tmp_path, form):
    names = ["Jos\u00e9", "Jos\u00e8", "Ren\u00e9", "Ren\u00ea", "\u20ac"]
    records = [{"user": name, "item": "x", "text": "tr\u00e8s bon"} for name in names]
    whole = {
        "lines": "\n".join(json.dumps(record, ensure_ascii=False) for record in records),
        "array": json.dumps(records, ensure_ascii=False),
        "pretty": json.dumps(records, ensure_ascii=False, indent=1),
    }[form]
    found, reviews = rows(write(tmp_path, whole.encode("cp1252")))
    assert [row["user"] for row in found] == names
    assert {row["text"] for row in found} == {"tr\u00e8s bon"}
    assert reviews.counts["encoding"] == {"lines": 5, "array": 1, "pretty": 10}[form]


def test_lines_that_end_with_a_comma_are_objects(tmp_path):
    found, _ = rows(write(tmp_path, ",\n".join(line(n) for n in range(9)) + "\n"))
    assert [row["user"] for row in found] == [f"u{n}" for n in range(9)]


def test_a_null_of_a_database_is_nobody(tmp_path):
    found, reviews = rows(
        write(tmp_path, "user,item,text,rating,date\n\\N,a,b,1,1\nann,\\N,b,1,1\nann,a,\\N,\\N,\\N\n", "a.csv")
    )
    assert [(row["user"], row["item"], row["text"], row["time"]) for row in found] == [("ann", "a", "", None)]
    assert [reviews.counts[kind] for kind in ("no_user", "no_item", "bad_rating", "bad_time")] == [1, 1, 0, 0]


def test_a_pipe_is_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="write it to a file first"):
        read([tmp_path / "pipe"])


@pytest.mark.parametrize("mark", "/-")
@pytest.mark.parametrize(("first", "second"), [("%d", "%m"), ("%m", "%d")])
def test_a_column_of_dates_is_read_one_way(tmp_path, mark, first, second):
    """Days up to the twelfth could be months; those beyond tell which."""
    days = [datetime(2020, month, day, tzinfo=UTC) for month in (3, 4) for day in range(1, 29)]
    lines = [f"u{n},i{n},5,good,{day.strftime(mark.join((first, second, '%Y')))}" for n, day in enumerate(days)]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["user,item,rating,text,date", *lines]))
    found, reviews = rows(path)
    assert [row["time"] for row in found] == [int(day.timestamp()) for day in days]
    assert not reviews.notes


@pytest.mark.parametrize("form", ["lines", "array"])
def test_whole_numbers_beyond_64_bits_keep_their_digits(tmp_path, form):
    """Google's user ids are that long: rounded, strangers would be one user."""
    ids = [101463350189962023774 + n for n in range(5)] + [-(2**63) - 3, 2**64 - 1, 12, 10**19 * 5 + 1]
    lines = [line(n, user=number, item=number + 1) for n, number in enumerate(ids)] + ["{broken"]
    path = write(tmp_path, "\n".join(lines) + "\n" if form == "lines" else f"[{', '.join(lines[:-1])}]")
    found, reviews = rows(path)
    assert [row["user"] for row in found] == list(map(str, ids))
    assert [row["item"] for row in found] == [str(number + 1) for number in ids]
    assert reviews.counts["bad_json"] == (form == "lines"), "read twice, counted once"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_ratings_as_people_write_them(tmp_path, kind):
    written = ["4,5", "4.0 out of 5 stars", "4/5", "3,5 / 5", "1 star", "★★★★", "★★☆☆☆", "80%", "☆☆", "4/5/2020", "4"]
    written += ["1,234", "10/12", "6/5"]
    expected = [4.5, 4.0, 4.0, 3.5, 1.0, 4.0, 2.0, None, None, None, 4.0, None, None, None]
    records = [{"user": f"u{n}", "item": "x", "stars": rating, "text": "a"} for n, rating in enumerate(written)]
    path = tmp_path / "reviews"
    if kind == "csv":
        path.write_text("\n".join(["user;item;stars;text", *(";".join(record.values()) for record in records)]))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    found, reviews = rows(path)
    assert [None if math.isnan(row["rating"]) else row["rating"] for row in found] == expected
    assert reviews.counts["bad_rating"] == 6


def test_yes_is_no_rating_whatever_stands_beside_it(tmp_path):
    for values in ([True, False], [True, "good"], [True, 4.5]):
        found, reviews = rows(write(tmp_path, "\n".join(line(n, rating=value) for n, value in enumerate(values))))
        assert [math.isnan(row["rating"]) for row in found] == [value != 4.5 for value in values]
        assert reviews.counts["bad_rating"] == sum(value != 4.5 for value in values)


@pytest.mark.parametrize("unit", [1, 1000, 10**6])
@pytest.mark.parametrize("beside", [[], ["2020-01-01"]])
def test_never_as_a_number(tmp_path, unit, beside):
    times = [253402300799 * unit, 253402214400 * unit, 1577836800 * unit, *beside]
    found, reviews = rows(write(tmp_path, "\n".join(line(n, time=time) for n, time in enumerate(times))))
    assert [row["time"] for row in found] == [None, None, 1577836800, *([1577836800] if beside else [])]
    assert reviews.counts["bad_time"] == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "struct"])
def test_a_date_that_means_never_is_absent_and_counted(tmp_path, kind):
    days = ["9999-12-31", "2020-01-01", "0001-01-01", "2300-01-01"]
    records = [{"user": f"u{n}", "item": "x", "rating": 4, "text": "a", "date": day} for n, day in enumerate(days)]
    path, column = tmp_path / "reviews", "date"
    if kind == "csv":
        path.write_text("\n".join(["user,item,rating,text,date", *(",".join(map(str, r.values())) for r in records)]))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        table = pa.Table.from_pylist(records)
        moments = table["date"].cast(pa.timestamp("us")).combine_chunks()
        if kind == "struct":
            moments, column = pa.StructArray.from_arrays([moments, moments.cast(pa.date32())], ["at", "on"]), "date.on"
        pq.write_table(table.set_column(4, "date", moments), path)
    found, reviews = rows(path, columns={"time": column})
    assert [row["time"] for row in found] == [None, 1577836800, None, None]
    assert reviews.counts["bad_time"] == 3


def test_dates_in_a_record_that_no_calendar_reaches(tmp_path):
    never = pa.array([253402300800, 1577836800, None], pa.int64())  # the year 10000
    at = pa.StructArray.from_arrays([never.cast(pa.timestamp("s")), pa.array([b"ann", b"bob", None])], ["at", "by"])
    columns = {"meta": at, "item": ["x", "y", "z"], "text": ["a", "b", "c"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found, _ = rows(tmp_path / "a.parquet", columns={"time": "meta.at", "user": "meta.by"})
    assert [(row["user"], row["time"]) for row in found] == [("ann", None), ("bob", 1577836800)]


def test_decimals_are_the_numbers_that_they_are(tmp_path):
    ids = pa.array([Decimal("1000"), Decimal("12.5"), Decimal("99999999999999999999999999999")], pa.decimal128(38, 9))
    pq.write_table(pa.table({"user": ids, "item": ids, "text": ["a", "b", "c"]}), tmp_path / "a.parquet")
    found, _ = rows(tmp_path / "a.parquet")
    assert [row["user"] for row in found] == ["1000", "12.5", "99999999999999999999999999999"]
