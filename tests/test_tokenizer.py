"""Protects the way from captions to numbers: any script splits sensibly and nothing crashes it."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer import PAD, SPECIAL_TOKENS, START, UNKNOWN, Tokenizer, split_words

ANY_TEXT = st.text(st.characters(), max_size=40)  # surrogates and control characters too


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A RED Bird", ["a", "red", "bird"]),
        ("\uff32\uff25\uff24 \ufb01sh \u2460", ["red", "fish", "1"]),  # full width, ligature, (1)
        (
            "a red-and-blue bird, on top.",
            ["a", "red", "-", "and", "-", "blue", "bird", ",", "on", "top", "."],
        ),
        ("3rd of 12 birds", ["3", "rd", "of", "12", "birds"]),
        ("don't DON\u2019T rock'n'roll", ["don't", "don't", "rock'n'roll"]),
        ("'a' birds' 'tis", ["'", "a", "'", "birds", "'", "'", "tis"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),  # composed and decomposed
        ("x\u0338 na\u0308\u0323h", ["x\u0338", unicodedata.normalize("NFKC", "na\u0308\u0323h")]),
        ("\u0932\u093e\u0932 \u092a\u0902", ["\u0932\u093e\u0932", "\u092a\u0902"]),  # Hindi
        ("\u7ea2\u9e1f", ["\u7ea2", "\u9e1f"]),  # Chinese: red bird
        ("\u8d64\u3044\u30c8\u30ea a", ["\u8d64", "\u3044", "\u30c8", "\u30ea", "a"]),  # Japanese
        ("\uff76\uff9e", ["\u30ac"]),  # half-width ka and its voice mark are one letter
        ("\u0e19\u0e01", ["\u0e19", "\u0e01"]),  # Thai: bird
        ("\u0e17\u0e35\u0e48", ["\u0e17\u0e35\u0e48"]),  # a Thai letter keeps vowel and tone signs
        ("\ube68\uac04 \uc0c8", ["\ube68\uac04", "\uc0c8"]),  # Korean: red bird
        ("a \U0001f426\U0001f426!", ["a", "\U0001f426", "\U0001f426", "!"]),
        ("tab\tnew\nline\u00a0wide\u3000end", ["tab", "new", "line", "wide", "end"]),
        ("a\u0000b\u0007c", ["a", "b", "c"]),  # control characters are spaces
        ("", []),
        (" \n", []),
    ],
)
def test_captions_split_into_words_numbers_and_signs(caption, words):
    assert split_words(caption) == words


def test_devanagari_vowel_signs_stay_with_their_letter():
    word = "\u092a\u0915\u094d\u0937\u0940"  # two letters, a virama, a letter and a vowel sign
    assert len(split_words(word)) == 1
    assert any(unicodedata.category(character).startswith("M") for character in word)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(ANY_TEXT)
def test_no_text_crashes_the_tokenizer_or_leaves_white_space_in_a_word(text):
    words = split_words(text)
    assert all(word and not any(c.isspace() for c in word) for word in words)
    tokenizer = Tokenizer.learn([text], min_count=1)
    ids = tokenizer.encode(text)
    assert ids[0] == START
    assert len(ids) == 1 + len(words)
    assert PAD not in ids and UNKNOWN not in ids
    assert set(Tokenizer().encode(text)[1:]) <= {UNKNOWN}
    assert set(Tokenizer().unknown_words(text)) == set(words)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(ANY_TEXT)
def test_decoding_and_encoding_again_gives_the_same_numbers(text):
    tokenizer = Tokenizer.learn([text], min_count=1)
    ids = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_decoding_gives_the_words_without_padding_and_start():
    tokenizer = Tokenizer.learn(["a red bird"], min_count=1)
    assert tokenizer.decode([*tokenizer.encode("A red, BIRD"), PAD, PAD]) == "a red <unk> bird"


def test_rare_words_are_left_out_of_the_vocabulary():
    captions = ["red red bird bird bird", "blue"]
    assert Tokenizer.learn(captions).vocabulary == [*SPECIAL_TOKENS, "bird", "red"]
    assert Tokenizer.learn(captions, min_count=3).vocabulary == [*SPECIAL_TOKENS, "bird"]
    assert Tokenizer.learn(captions, min_count=1).vocabulary[-1] == "blue"


def test_the_vocabulary_keeps_the_most_frequent_words_within_its_size():
    captions = ["a a a b b c"]
    assert Tokenizer.learn(captions, 1, max_size=5).vocabulary == [*SPECIAL_TOKENS, "a", "b"]
    assert len(Tokenizer.learn(captions, 1, max_size=3)) == 3


def test_the_vocabulary_does_not_depend_on_the_order_of_the_captions():
    captions = ["a red bird", "a blue bird", "two green fish", "one red fish", "the blue sea"]
    forward = Tokenizer.learn(captions, min_count=1)
    backward = Tokenizer.learn(iter(captions[::-1]), min_count=1)
    assert forward.vocabulary == backward.vocabulary
    assert len(set(forward.vocabulary)) == len(forward)


def test_long_captions_are_cut_to_max_tokens_counting_start():
    tokenizer = Tokenizer.learn(["a b c d e f"], min_count=1)
    whole = tokenizer.encode("a b c d e f")
    assert len(whole) == 7
    for max_tokens in (1, 4, 7, 100):
        assert tokenizer.encode("a b c d e f", max_tokens) == whole[:max_tokens]


def test_unknown_words_are_numbered_unknown_and_reported_with_the_nearest_known_word():
    tokenizer = Tokenizer.learn(["a triangle and a circle"], min_count=1)
    ids = tokenizer.encode("a triangel and a xylophone")
    assert [i for i, number in enumerate(ids) if number == UNKNOWN] == [2, 5]
    unknown = tokenizer.unknown_words("a triangel and a xylophone a triangel")
    assert unknown == ["triangel", "xylophone"]
    assert list(map(tokenizer.nearest_word, unknown)) == ["triangle", None]
    assert tokenizer.unknown_words("a circle") == []


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_caption_cannot_inject_special_tokens(special):
    text = f"a {special} bird {special}"
    ids = Tokenizer.learn([text] * 2).encode(text)[1:]
    assert not {PAD, UNKNOWN, START} & set(ids)  # its letters and signs are ordinary words
    assert set(Tokenizer().encode(text)[1:]) == {UNKNOWN}
    wide = text.replace("<", "\uff1c").replace(">", "\uff1e")  # NFKC makes these < and >
    assert Tokenizer.learn([text] * 2).encode(wide)[1:] == ids
    assert special.strip("<>") in Tokenizer().unknown_words(special)


def test_state_round_trip_is_plain_values():
    tokenizer = Tokenizer.learn(["a caf\u00e9 \u7ea2 don't"], min_count=1)
    state = json.loads(json.dumps(tokenizer.state_dict()))
    assert state == tokenizer.state_dict()
    copy = Tokenizer.from_state_dict(state)
    assert copy.vocabulary == tokenizer.vocabulary
    assert copy.encode("a \u7ea2 new caf\u00e9") == tokenizer.encode("a \u7ea2 new caf\u00e9")


def test_the_state_is_a_copy_of_the_vocabulary():
    tokenizer = Tokenizer.learn(["a"], min_count=1)
    tokenizer.state_dict()["vocabulary"].append("b")
    assert len(tokenizer) == 4


def test_a_vocabulary_without_special_tokens_is_refused():
    with pytest.raises(ValueError, match="starts with"):
        Tokenizer(["a", "b", "c"])
