"""Words are taken apart and left out without touching the rest; classes come from the published lists."""

import numpy as np
import pytest

from symcere.explanation import Worded, word_class
from symcere.explanation.words import english_share


def test_every_occurrence_of_a_word_leaves_and_nothing_else():
    text = "Great pedal! The GREAT tone; greatness isn't great-sounding."
    worded = Worded.of(text)
    assert worded.words == ("great", "pedal", "the", "tone", "greatness", "isn't", "sounding")
    gone = np.array([w == "great" for w in worded.words])
    assert worded.without(gone) == " pedal! The  tone; greatness isn't -sounding."
    assert worded.without(np.zeros(7, bool)) == text
    assert set(worded.without(np.ones(7, bool))) <= set("!;.- ")


def test_any_script_and_no_words():
    assert Worded.of("Отличная гитара, отличная!").words == ("отличная", "гитара")
    for text in ("", "!!! ...", "   "):
        worded = Worded.of(text)
        assert worded.words == () and worded.without(np.zeros(0, bool)) == text  # noqa: PT018


@pytest.mark.parametrize(
    "words",
    [
        ("हिन्दी", "में", "अच्छी", "गिटार"),
        ("தமிழ்", "நல்ல", "கிதார்"),
        ("ภาษาไทย", "ดีมาก"),  # without spaces a run is one word
        ("مُمْتَازٌ", "جِدًّا"),
        ("می\u200cخواهم", "گیتار"),
        ("cafe\u0301", "nai\u0308ve"),
        ("葛\U000e0100城", "市"),
    ],
)
def test_marks_belong_to_their_word(words):
    worded = Worded.of(" ".join(words) + "!")
    assert worded.words == words
    assert worded.without(np.ones(len(words), bool)) == " " * (len(words) - 1) + "!"


def test_marks_alone_are_no_word():
    """An emoji of several has a variation selector or joiners between its parts."""
    assert Worded.of("❤\ufe0f nice 👩\u200d💻 it’s rock'n'roll 'q'").words == ("nice", "it's", "rock'n'roll", "q")


def test_a_review_ends_where_the_encoder_stops_reading():
    text = "strings hold strings break"
    worded = Worded.of(text, read=18)  # in the midst of the third word
    assert worded.words == ("strings", "hold")
    assert worded.text == "strings hold strin"
    assert worded.without(np.array([True, False])) == " hold strin"
    assert Worded.of(text, read=len(text)).words == ("strings", "hold", "break")


def test_a_long_review_keeps_what_is_beyond_its_first_words():
    worded = Worded.of("a b c a d", most=2)
    assert worded.words == ("a", "b")
    assert worded.without(np.array([True, True])) == "  c  d"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("objective", "gasket compatible oem pedal strings camera's"),
        ("sentiment", "great good love terrible awesome"),
        ("function", "the and it's don't won't well no 12 x"),
    ],
)
def test_classes(kind, words):
    assert {w: word_class(w) for w in words.split()} == dict.fromkeys(words.split(), kind)


def test_planted_words_fall_into_their_class(world):
    """The lists were made by others: nearly all planted words have to agree with them."""
    objective = [word_class(w) for w in world.truth.objective_words]
    assert objective.count("objective") / len(objective) > 0.95
    clear = ["good", "great", "excellent", "lovely", "perfect", "bad", "terrible", "poor", "awful", "horrible", "love"]
    assert {word_class(w) for w in clear} == {"sentiment"}


def test_language():
    assert english_share(["This is what I wanted and it is on the table."]) > 0.5
    assert english_share(["Das Kabel hält gut und klingt sauber, ich würde es wieder kaufen."]) < 0.1
    assert english_share([]) == 0
