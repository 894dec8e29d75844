"""What is recommended, to whom, on what ground; against the ranking of evaluation and against plain loops."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from symcere.config import Experiment
from symcere.errors import UserError
from symcere.evaluation.ranking import top_k
from symcere.serving import Request, Service, raw_id
from symcere.serving.reasons import MOST, chosen, sentences, split
from symcere.training import fit


def taste(item: str) -> int:
    return int(item.removeprefix("thing-")) % 3


def test_known_users_get_what_evaluation_ranks(service, corpus):
    """But for what they reviewed in the test split: to serve, no review is held out."""
    requests = [Request(user_id=user, k=5) for user in corpus.user_ids.to_pylist()]
    reviewed = csr_array(corpus.train + corpus.val + corpus.test)
    items, scores = top_k(service.scorer, np.arange(corpus.num_users), 5, reviewed)
    for k, answer in enumerate(service.recommend(requests)):
        assert answer.basis == "known"
        assert answer.items == corpus.item_ids.take(items[k].numpy()).to_pylist()
        assert answer.scores == pytest.approx(scores[k].tolist(), abs=1e-6)


def test_batches_answer_as_single_requests_do(service):
    requests = [
        Request(user_id="ann-000", k=4),
        Request(review_text="the pool was warm and sunny", k=3, why=True),
        Request(liked_items=("thing-002", "thing-005"), k=3),
        Request(user_id="ann-001", k=4, popularity_weight=0.0),
        Request(user_id="nobody", k=2),
        Request(user_id="ann-002", k=4, candidates=("thing-001", "thing-004"), exclude_seen=False),
        Request(user_id="ann-002", k=4, exclude=("thing-001",), exclude_seen=False),
    ]
    together = service.recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = service.recommend([request])[0]
        assert dataclasses.replace(alone, scores=[]) == dataclasses.replace(answer, scores=[])
        assert alone.scores == pytest.approx(answer.scores, abs=1e-6)


def test_seen_items_are_left_out_unless_asked_for(service, corpus):
    reviewed = (corpus.train + corpus.val + corpus.test).toarray()[7]
    seen = set(corpus.item_ids.take(np.flatnonzero(reviewed)).to_pylist())
    left, all_of_them = service.recommend([Request("ann-007", k=18), Request("ann-007", k=18, exclude_seen=False)])
    assert not seen & set(left.items)
    assert len(left.items) == 18 - len(seen)
    assert "are left for k = 18" in " ".join(left.notes)
    assert set(all_of_them.items) >= seen


def test_candidates_and_exclusions_are_obeyed(service, corpus):
    stock = ("thing-003", "thing-004", "thing-008", "of another shop")
    request = Request("ann-000", k=3, candidates=stock, exclude=("thing-004",), exclude_seen=False)
    answer = service.recommend([request])[0]
    assert sorted(answer.items) == ["thing-003", "thing-008"]
    assert any(note.startswith("1 of 4 candidates are not known") for note in answer.notes)
    row = service.scorer.scores(torch.tensor([0]))[0]
    assert answer.items == sorted(answer.items, key=lambda i: -row[corpus.item_index(i)])


def test_the_popularity_weight_changes_the_score_by_the_bias(service, corpus):
    full, none = service.recommend(
        [
            Request("ann-000", k=18, exclude_seen=False),
            Request("ann-000", k=18, exclude_seen=False, popularity_weight=0),
        ]
    )
    bias = dict(zip(corpus.item_ids.to_pylist(), service.scorer.bias.tolist(), strict=True))
    before = dict(zip(none.items, none.scores, strict=True))
    for item, score in zip(full.items, full.scores, strict=True):
        assert score == pytest.approx(before[item] + bias[item], abs=1e-5)


def test_new_users_are_found_by_their_words_and_by_their_items(service):
    for kind, words in enumerate(
        ["straight neck, maple fretboard", "warm pool near the beach", "a gasket for the pump"]
    ):
        answer = service.recommend([Request(review_text=words, k=3, popularity_weight=0)])[0]
        assert answer.basis == "text"
        assert {taste(item) for item in answer.items} == {kind}
        liked = (f"thing-{kind:03}", f"thing-{kind + 3:03}")
        answer = service.recommend([Request(liked_items=liked, k=3, popularity_weight=0)])[0]
        assert answer.basis == "liked"
        assert {taste(item) for item in answer.items} == {kind}
        assert not set(liked) & set(answer.items)


def test_fallbacks_come_in_the_stated_order_and_are_flagged(service, corpus):
    every = {"review_text": "warm pool", "liked_items": ("thing-001",)}
    by_popularity = np.argsort(-corpus.item_popularity, kind="stable")
    answers = service.recommend(
        [
            Request("ann-003", **every),
            Request("stranger", **every),
            Request("stranger", liked_items=("thing-001",)),
            Request("stranger", review_text="Добрый день", liked_items=("thing-001", "thing-9")),
            Request("stranger", review_text="   "),
            Request("ann-00"),
        ]
    )
    assert [a.basis for a in answers] == ["known", "text", "liked", "liked", "popularity", "popularity"]
    assert answers[0].notes == [
        "Words and liked items of a known user do not count for the ranking; the items are left out."
    ]
    assert "thing-001" not in answers[0].items  # liked, they say
    assert "The text holds no word that its encoder knows." in answers[3].notes
    assert any("'thing-9'. Did you mean thing-0" in note for note in answers[3].notes)
    counts = corpus.item_popularity[by_popularity[:10]].tolist()
    assert answers[4].scores == counts
    assert answers[5].notes[0] == "User 'ann-00' is not known."  # whose ids are like it is nobody's business


def test_the_words_of_a_newcomer_are_cleaned_as_those_of_training_are(service):
    plain, marked = service.recommend(
        [
            Request(review_text="warm pool & straight neck", k=5),
            Request(review_text="warm&nbsp;pool &amp;\n <b>straight</b><br/>neck", k=5),
        ]
    )
    assert plain.items == marked.items
    assert plain.scores == pytest.approx(marked.scores, abs=1e-5)


def test_ids_count_as_prepare_reads_them():
    values = [7, 7.0, np.float64(7), " 7 ", "007", None, float("nan"), "", 2**60]
    assert [raw_id(value) for value in values] == ["7", "7", "7", "7", "007", None, None, None, str(2**60)]
    with pytest.raises(UserError, match="last digits are lost"):
        raw_id(1e17)


def test_bad_requests_are_refused_in_words(service):
    for request, words in (
        (Request("ann-000", k=0), "choose 1 to 18"),
        (Request("ann-000", k=19), "k is 19, but tiny-symcere knows 18 items"),
        (Request("ann-000", popularity_weight=-1.0), "from 0 to 1e.06"),
        (Request("ann-000", popularity_weight=float("nan")), "from 0 to 1e.06"),
        (Request("ann-000", candidates=("thing-0",)), "Did you mean thing-0"),
        (Request("ann-000", candidates="thing-001"), "candidates is a list of item ids, not 'thing-001'"),
        (Request("ann-000", candidates=()), "No item is left.*no candidate is given"),
    ):
        with pytest.raises(UserError, match=words):
            service.recommend([request])
    with pytest.raises(UserError, match="Did you mean ann-0"):
        service.user("ann-0")


def test_a_reason_is_the_closest_sentence_and_none_comes_twice(service, corpus):
    answer = service.recommend([Request("ann-001", k=6, why=True)])[0]
    told = [phrase for phrase in answer.why if phrase]
    assert len(told) == len({phrase.casefold() for phrase in told}) > 0
    of = sentences(corpus)
    # The reference, item by item: encode every sentence, take the best one that is not used yet.
    user = torch.nn.functional.normalize(service.scorer.users[1], dim=0)
    used = set()
    for item, phrase in zip(answer.items, answer.why, strict=True):
        match = {}
        for sentence in of(corpus.item_index(item)):
            vector = service.newcomers.text(service.encoder.encode([sentence]))[0]
            if sentence.casefold() not in used:
                match[sentence] = float(torch.nn.functional.normalize(vector, dim=0) @ user)
        assert match[phrase] == pytest.approx(max(match.values()), abs=1e-5)  # numbers make no difference: ties
        used.add(phrase.casefold())
    texts = set(corpus.texts("train").to_pylist())
    assert all(any(phrase in text for text in texts) for phrase in told)


def test_sentences_are_taken_in_turns_once_and_are_bounded():
    assert split("Great! The neck is straight and fast. Ok.") == ["The neck is straight and fast."]
    assert split("a b c d " * 20)[0].endswith(" …")
    reviews = ["One two three four. Five six seven eight.", "ONE TWO THREE FOUR. Nine ten eleven twelve."]
    assert chosen(reviews) == ["One two three four.", "Five six seven eight.", "Nine ten eleven twelve."]
    assert len(chosen(f"This is sentence number {n}." for n in range(100))) == MOST


def test_models_without_vectors_or_text_recommend_and_say_so(corpus, embeddings):
    settings = {"text.encoders": "lsa", "train.epochs": 2, "model.dim": 4}
    for changed in ({"closed_form.kind": "ease"}, {"closed_form.kind": "popularity"}, {"model.features": "id"}):
        experiment = Experiment().replace({**settings, **changed})
        fitted = fit(corpus, None, experiment)
        service = Service.of(fitted, corpus, None, "plain")
        known, words, liked = service.recommend(
            [
                Request("ann-004", k=5, why=True),
                Request(review_text="a warm pool", k=5),
                Request(liked_items=("thing-001", "thing-004"), k=5),
            ]
        )
        reviewed = csr_array(corpus.train + corpus.val + corpus.test)
        items, _ = top_k(fitted.scorer, np.array([4]), 5, reviewed)
        assert known.items == corpus.item_ids.take(items[0].numpy()).to_pylist()
        assert "No reasons: the ranking does not come from texts." in known.notes
        assert words.basis == "popularity"
        assert "The text does not count: the model reads no text." in words.notes
        assert liked.basis == ("popularity" if changed.get("closed_form.kind") == "popularity" else "liked")
    for changed, liked_counts in (
        ({"model.features": "id", "model.layers": 0}, False),
        ({"model.text_layers": 0}, False),
        ({"model.text_layers": 0, "model.user_profile": "items"}, True),
        ({"model.features": "both", "model.text_layers": 0, "model.layers": 1}, True),
    ):
        experiment = Experiment().replace({**settings, **changed})
        service = Service.of(fit(corpus, embeddings, experiment), corpus, embeddings, "flat")
        answers = service.recommend([Request(liked_items=(f"thing-{n:03}",), k=9) for n in (1, 4, 7)])
        assert {a.basis for a in answers} == {"liked" if liked_counts else "popularity"}
        assert (len({tuple(a.items) for a in answers}) > 1) == liked_counts
        assert any("liked items do not count" in note for note in answers[0].notes) != liked_counts
    ease = Service.of(fit(corpus, None, Experiment().replace({"closed_form.kind": "ease"})), corpus, None, "ease")
    mine = tuple(corpus.item_ids.take(corpus.train[[9]].indices).to_pylist())
    known, liked = ease.recommend(
        [Request("ann-009", k=5, exclude_seen=False), Request(liked_items=mine, k=5, exclude_seen=False)]
    )
    assert known.items == liked.items
    with pytest.raises(UserError, match="no popularity term"):
        ease.recommend([Request("ann-009", popularity_weight=1.0)])


def test_reasons_name_what_a_user_was_planted_to_care_for(tmp_path):
    """Against sentences that are drawn by chance from the same reviews of the same items."""
    import re

    from symcere.config.fields import build
    from symcere.data import cards
    from symcere.data.prepare import prepare
    from symcere.data.synthetic import Synthetic
    from symcere.text import embed

    card = dataclasses.replace(cards.find("synthetic"), columns={"users": 300, "items": 60})
    corpus = prepare(card, card.data, [], tmp_path / "planted")
    experiment = Experiment().replace({"text.encoders": "lsa", "train.epochs": 30, "train.lr": 0.01, "model.dim": 32})
    embeddings = embed(corpus, experiment.text, tmp_path)
    service = Service.of(fit(corpus, embeddings, experiment), corpus, embeddings, "planted")
    truth = build(Synthetic, card.columns).truth().numbered_as(corpus.user_ids, corpus.item_ids)
    names, words = truth.attributes, truth.words
    loved = [{w for a in np.flatnonzero(row) for w in words[names[a]]} for row in truth.user_attributes()]
    of, rng = sentences(corpus), np.random.default_rng(0)
    told, drawn = [], []
    users = range(0, corpus.num_users, 2)
    for user, answer in zip(
        users, service.recommend([Request(corpus.user_ids[u].as_py(), k=5, why=True) for u in users]), strict=True
    ):
        for item, phrase in zip(answer.items, answer.why, strict=True):
            others = of(corpus.item_index(item))
            if phrase and others:
                told.append(bool(loved[user] & set(re.findall(r"\w+", phrase.lower()))))
                drawn.append(bool(loved[user] & set(re.findall(r"\w+", rng.choice(others).lower()))))
    assert len(told) > 200
    assert np.mean(told) > 2 * np.mean(drawn)
