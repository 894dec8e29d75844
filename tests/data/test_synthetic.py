import itertools
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from symcere.data import reviews, splits
from symcere.data.synthetic import PRESETS, Synthetic, communities
from symcere.data.wording import FACETS, OBJECTIVE, SENTIMENT, VERDICT
from symcere.errors import UserError

SEVERAL_BLOCKS = Synthetic(users=24_000, items=2_000, reviews=140_000)


def table(source: Synthetic, **options) -> pa.Table:
    return pa.Table.from_batches(source.batches(**options))


def positions(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([int(i.rpartition("-")[2]) for i in column.to_pylist()])


def tokens(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.fixture(scope="module")
def demo() -> Synthetic:
    return Synthetic.from_options({"preset": "demo"})


@pytest.fixture(scope="module")
def demo_table(demo) -> pa.Table:
    return table(demo)


# ---------------------------------------------------------------- the stream


def test_the_seed_decides_everything(demo, demo_table):
    assert table(Synthetic()).equals(demo_table)
    other = table(Synthetic(seed=1))
    for column in ("user", "item", "rating", "time", "text"):
        assert not other[column].equals(demo_table[column])


def test_batch_size_changes_nothing_but_the_batches():
    assert -(-SEVERAL_BLOCKS.users // SEVERAL_BLOCKS._block) >= 3
    whole = table(SEVERAL_BLOCKS)
    small = list(SEVERAL_BLOCKS.batches(9_999))
    assert [len(b) for b in small[:-1]] == [9_999] * (140_000 // 9_999)
    assert pa.Table.from_batches(small).equals(whole)
    assert table(SEVERAL_BLOCKS, batch_size=10**9).equals(whole)


@pytest.mark.parametrize("source", [Synthetic(), Synthetic.from_options({"preset": "dense"}), SEVERAL_BLOCKS])
def test_rows_are_as_many_as_asked_and_distinct_pairs(source):
    made = table(source)
    assert made.schema.equals(reviews.SCHEMA)
    assert made["row"].to_pylist() == list(range(source.reviews))
    users, items = positions(made["user"]), positions(made["item"])
    assert len(np.unique(users * source.items + items)) == source.reviews
    counts = np.bincount(users)
    assert len(counts) == source.users
    assert counts.min() >= source.min_reviews
    assert set(np.unique(made["rating"])) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    times = made["time"].to_numpy()
    assert times.min() >= 1_325_376_000  # 2012
    assert times.max() < 1_704_067_200  # 2024
    assert (times % 86_400 == 0).all()


def test_readers_yield_the_same_stream(demo_table):
    source = reviews.read([], "synthetic", {"users": "700", "reviews": "4000"})
    assert pa.Table.from_batches(source).equals(demo_table)
    assert source.counts["rows"] == 4000


def test_two_million_reviews_stream_in_bounded_memory():
    script = (
        "import resource\n"
        "from symcere.data.synthetic import Synthetic\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before, rows, size = peak(), 0, 0\n"
        "for batch in Synthetic(users=400_000, items=20_000, reviews=2_000_000, values=10).batches():\n"
        "    rows, size = rows + len(batch), size + batch.nbytes\n"
        "print(rows, size >> 20, peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows, size, grown = map(int, done.stdout.split())
    assert rows == 2_000_000
    assert grown < 300 < size  # MiB, mostly of one block: twice the reviews add 6 MiB


# ---------------------------------------------------------------- who likes what


def test_picks_follow_the_law_of_draws_without_replacement():
    """Against every ordered draw of three of six items, written out."""
    source = Synthetic(
        users=30_000, items=6, reviews=90_000, min_reviews=3, facets=1, values=2, cares=1, sharpness=1.5, skew=1.0
    )
    made, truth = table(source), source.truth()
    picked = np.zeros((source.users, 6))
    picked[positions(made["user"]), positions(made["item"])] = 1
    taste = truth.user_attributes()[:, 0]
    for liked in (True, False):
        group = np.flatnonzero(taste == liked)
        law = truth.preference(group[:1])[0]
        included = np.zeros(6)
        for draw in itertools.permutations(range(6), 3):
            left, chance = 1.0, 1.0
            for item in draw:
                chance *= law[item] / left
                left -= law[item]
            included[list(draw)] += chance
        error = np.sqrt(included * (1 - included) / len(group))
        assert np.abs(picked[group].mean(0) - included).max() < 4 * error.max()


def test_dense_picks_end_in_the_exact_number():
    """Users who take two thirds of a sharply preferred catalogue exhaust the draws with replacement."""
    source = Synthetic(users=50, items=90, reviews=50 * 60, min_reviews=60, activity=0, sharpness=8.0)
    made = table(source)
    picked = np.zeros((50, 90), dtype=bool)
    picked[positions(made["user"]), positions(made["item"])] = True
    assert (picked.sum(1) == 60).all()
    assert (source.truth().likes() <= picked).mean() > 0.999  # what is liked most is long taken


def test_preference_is_log_linear_in_matches_and_popularity(demo):
    truth = demo.truth()
    users = np.arange(5)
    preference, matches = truth.preference(users), truth.matches(users)
    assert preference.sum(1) == pytest.approx(1)
    by_hand = truth.user_attributes(users).astype(int) @ truth.item_attributes.T.astype(int)
    assert (matches == by_hand).all()
    ratio = np.log(preference[0] / preference[1])
    slope = ratio - demo.sharpness * (matches[0] - matches[1])
    assert np.ptp(slope) == pytest.approx(0, abs=1e-9)


def test_every_user_cares_for_as_many_attributes_as_asked():
    source = Synthetic(facets=4, values=5, cares=3, favourites=2)
    liked = source.truth().user_attributes().reshape(-1, 4, 5).sum(2)
    assert (np.sort(liked, axis=1) == [0, 2, 2, 2]).all()
    assert (source.truth().item_attributes.reshape(-1, 4, 5).sum(2) == 1).all()


def test_popularity_is_as_skewed_as_asked():
    def share_of_top_tenth(skew):
        counts = np.sort(np.bincount(positions(table(Synthetic(skew=skew, seed=2))["item"]), minlength=300))[::-1]
        return counts[:30].sum() / counts.sum()

    flat, usual, steep = map(share_of_top_tenth, (0.0, 0.6, 1.2))
    assert flat < 0.22
    assert usual > flat + 0.06
    assert steep > usual + 0.15


@pytest.mark.parametrize(("preset", "times"), [("demo", 2.0), ("dense", 0.8)])
def test_false_negatives_are_planted(preset, times):
    """Untouched liked items, as a multiple of the touched ones."""
    source = Synthetic.from_options({"preset": preset})
    made = table(source)
    picked = np.zeros((source.users, source.items), dtype=bool)
    picked[positions(made["user"]), positions(made["item"])] = True
    likes = source.truth().likes()
    assert (likes & ~picked).sum() > times * (likes & picked).sum()
    assert ((likes & ~picked).sum(1) > 0).mean() > 0.9


def test_the_oracle_beats_popularity_by_far(demo, demo_table):
    """NDCG@10 of one held-out pick of each user: four times popularity's, yet far from 1."""
    users, items = positions(demo_table["user"]), positions(demo_table["item"])
    _, held = np.unique(users[::-1], return_index=True)
    held = len(users) - 1 - held
    train = np.zeros((demo.users, demo.items), dtype=bool)
    train[users, items] = True
    train[users[held], items[held]] = False

    def ndcg(scores):
        scores = np.where(train, -np.inf, scores)
        rank = (scores > scores[np.arange(demo.users), items[held]][:, None]).sum(1)
        return np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()

    popularity = ndcg(np.tile(train.sum(0) + np.linspace(0, 0.5, demo.items), (demo.users, 1)))
    oracle = ndcg(demo.truth().preference())
    assert oracle > 4 * popularity
    assert popularity > 0.02
    assert oracle < 0.6


# ---------------------------------------------------------------- words


def test_words_belong_to_one_class_only():
    truth = Synthetic(facets=4, values=12).truth()
    words = [word for own in truth.words.values() for word in own]
    assert len(words) == len(set(words)) == 4 * 12 * 5 == len(truth.objective_words)
    assert list(truth.words) == [name for values in FACETS.values() for name in values]
    templates = [t for facet in OBJECTIVE.values() for t in facet]
    assert not tokens(" ".join(templates)) & (truth.objective_words | truth.sentiment_words)
    sentiments = " ".join((*SENTIMENT, *itertools.chain(*VERDICT.values())))
    assert not tokens(sentiments) & truth.objective_words
    assert not truth.objective_words & truth.sentiment_words


def test_a_review_names_only_attributes_that_its_item_has(demo, demo_table):
    truth = demo.truth()
    column = {word: a for a, words in enumerate(truth.words.values()) for word in words}
    named = np.zeros((demo.items, len(truth.attributes)), dtype=bool)
    for item, text in zip(positions(demo_table["item"]), demo_table["text"].to_pylist(), strict=True):
        for word in tokens(text) & truth.objective_words:
            named[item, column[word]] = True
    assert not (named & ~truth.item_attributes).any()
    often = np.bincount(positions(demo_table["item"]), minlength=demo.items) >= 10
    assert named[often].sum() > 0.95 * truth.item_attributes[often].sum()


def test_shares_of_words_are_as_asked():
    source = Synthetic(reviews=8_000, objective=0.3, focus=4.0, sentences=4.0, empty=0.1)
    made, truth = table(source), source.truth()
    texts = made["text"].to_pylist()
    assert np.mean([t == "" for t in texts]) == pytest.approx(0.1, abs=0.015)
    column = {word: a for a, words in enumerate(truth.words.values()) for word in words}
    likes = truth.user_attributes()
    objective = total = came_for = 0
    matched = 0.0
    for user, item, text in zip(positions(made["user"]), positions(made["item"]), texts, strict=True):
        facet_match = (likes[user] & truth.item_attributes[item]).sum()
        for sentence in re.findall(r"[^.!]+[.!]", text):
            total += 1
            named = tokens(sentence) & truth.objective_words
            assert len(named) <= 1
            if named:
                objective += 1
                came_for += likes[user, column[named.pop()]]
                matched += 5 * facet_match / (3 + 4 * facet_match)  # odds 1 + focus for each match of 3 facets
    assert objective / total == pytest.approx(0.3, abs=0.01)
    assert total / (0.9 * len(texts)) == pytest.approx(4.0, abs=0.1)
    assert came_for == pytest.approx(matched, rel=0.03)


def test_sentiment_follows_the_rating(demo_table):
    def share(words, ratings):
        chosen = demo_table.filter(pa.array(np.isin(demo_table["rating"].to_numpy(), ratings)))
        return np.mean([bool(tokens(t) & words) for t in chosen["text"].to_pylist()])

    assert share({"good", "great", "love", "perfect"}, (1, 2, 3)) == 0
    assert share({"bad", "terrible", "hate", "awful"}, (3, 4, 5)) == 0
    assert share({"bad", "terrible", "hate", "awful"}, (1, 2)) > 0.3


def test_reviews_read_as_sentences(demo_table):
    for text in demo_table["text"].to_pylist()[:500]:
        assert re.fullmatch(r"([A-Z][a-z ,A-Z]*[.!])( [A-Z][a-z ,A-Z]*[.!])*", text), text


# ---------------------------------------------------------------- names


def test_ids_and_titles_name_what_the_item_is(demo):
    truth = demo.truth()
    for item in range(0, demo.items, 37):
        own = [name for name, has in zip(truth.attributes, truth.item_attributes[item], strict=True) if has]
        assert demo.item_ids[item].as_py() == f"{own[1]}-{own[0]}-{item:05d}"
        assert set(own) <= tokens(demo.item_titles[item].as_py())
    assert demo.user_ids(np.array([0, 27])).to_pylist() == ["ada-00000", "ben-00027"]


def test_truth_follows_the_numbering_of_a_corpus(demo):
    rng = np.random.default_rng(0)
    users, items = rng.permutation(demo.users)[:50], rng.permutation(demo.items)[:40]
    whole = demo.truth()
    part = whole.numbered_as(demo.user_ids(users), demo.item_ids.take(pa.array(items)))
    assert (part.matches() == whole.matches(users)[:, items]).all()
    assert (part.likes(np.array([3])) == whole.likes(users[[3]])[:, items]).all()
    assert part.preference().sum(1) == pytest.approx(1)
    ratio = part.preference()[7] / whole.preference(users[[7]])[0, items]
    assert np.ptp(ratio) == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------- options


def test_options_are_text_or_numbers_over_a_preset():
    made = Synthetic.from_options({"preset": "dense", "seed": "3", "skew": "0.9"})
    assert (made.users, made.seed, made.skew) == (PRESETS["dense"]["users"], 3, 0.9)
    assert Synthetic.from_options({}) == Synthetic() == Synthetic.from_options({"preset": "demo"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "dens"}, "dense"),
        ({"user": 3}, "synthetic.user.*users"),
        ({"users": "many"}, "whole number"),
        ({"reviews": 100}, "700 users leave 3"),
        ({"reviews": 10**6}, "two thirds"),
        ({"cares": 4}, "3 facets"),
        ({"favourites": 6}, "6 values"),
    ],
)
def test_bad_options_say_what_is_wrong(options, says):
    with pytest.raises(UserError, match=says):
        Synthetic.from_options(options)


# ---------------------------------------------------------------- the known answer


def test_communities_put_all_that_is_left_into_validation_and_test():
    made = communities(users=12, items=10, train=4)
    users, items = positions(made.reviews["user"]), positions(made.reviews["item"])
    part = np.full((24, 20), -1)
    part[users, items] = made.part
    own = (np.arange(24)[:, None] // 12) == (np.arange(20) // 10)
    assert ((part >= 0) == own).all()
    for number, each in enumerate((4, 3, 3)):
        assert ((part == number).sum(1) == each).all()


def test_communities_are_solved_by_neighbours_and_not_by_popularity():
    made = communities()
    users, items = positions(made.reviews["user"]), positions(made.reviews["item"])
    parts = np.zeros((3, 60, 48))
    parts[made.part, users, items] = 1
    train, _, test = parts

    def ndcg(scores):
        top = np.argsort(-np.where(train + parts[1] > 0, -np.inf, scores), axis=1, kind="stable")[:, :10]
        discount = 1 / np.log2(np.arange(2, 12))
        return (np.take_along_axis(test, top, 1) @ discount / discount[:8].sum()).mean()  # 8 test items each

    assert ndcg(train @ train.T @ train) == pytest.approx(1)
    assert ndcg(np.tile(train.sum(0), (60, 1))) < 0.7


def test_communities_are_written_as_a_source_and_its_split(tmp_path):
    made = communities(users=6, items=8, train=3)
    source, split = made.write(tmp_path)
    read = pa.Table.from_batches(reviews.read([source]))
    for column in ("user", "item", "text", "time", "rating"):
        assert read[column].to_pylist() == made.reviews[column].to_pylist()
    files = splits.Files.read(split)
    numbers = [
        np.array([known.index(i) for i in made.reviews[column].to_pylist()])
        for known, column in ((files.users.to_pylist(), "user"), (files.items.to_pylist(), "item"))
    ]
    assert (files.divide(*numbers) == made.part).all()


def test_communities_speak_of_their_own_items():
    made = communities()
    words = {stem: set(FACETS["part"][stem]) for stem in list(FACETS["part"])[:2]}
    for item, text in zip(made.reviews["item"].to_pylist(), made.reviews["text"].to_pylist(), strict=True):
        (other,) = set(words) - {item.rpartition("-")[0]}
        assert not tokens(text) & words[other]
