"""How does a caption become numbers? Words of any script, in a vocabulary learnt from captions."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

PAD, UNKNOWN, START = 0, 1, 2
SPECIAL_TOKENS = ["<pad>", "<unk>", "<start>"]
# Scripts written without spaces: each letter is a word of its own.
UNSPACED = (
    "CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
)  # fmt: skip

ENDINGS = ("s", "es", "ed", "ing")  # that a known word may have got

ASCII_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*|[0-9]+|[!-/:-@\[-`{-~]")


@lru_cache(maxsize=65536)
def _kind(character: str) -> str:
    """One of: letter, mark (accents and vowel signs), digit, alone, space."""
    category = unicodedata.category(character)
    if category == "Lo" and unicodedata.name(character, "").startswith(UNSPACED):
        return "alone"
    return {"L": "letter", "M": "mark", "N": "digit", "P": "alone", "S": "alone"}.get(
        category[0], "space"
    )


def split_words(caption: str) -> list[str]:
    """Split a caption into lower-case words, numbers and single signs.

    Normalised by Unicode NFKC first. Accents and vowel signs stay with their letter, "don't" is one
    word, "3rd" is two, and scripts written without spaces give one token a letter.
    """
    if caption.isascii():  # the same, several times as fast
        return ASCII_TOKEN.findall(caption.lower())
    words: list[str] = []
    previous = "space"
    text = unicodedata.normalize("NFKC", caption).lower().replace("\u2019", "'")
    for i, character in enumerate(text):
        kind = _kind(character)
        if (
            character == "'"
            and previous == "letter"
            and _kind(text[i + 1 : i + 2] or " ") == "letter"
        ):
            kind = "letter"
        if kind == "mark" and previous != "space":
            words[-1] += character
            continue
        if kind in ("letter", "digit") and kind == previous:
            words[-1] += character
        elif kind != "space":
            words.append(character)
        previous = kind
    return words


def text_of(words: Sequence[str]) -> str:
    """Words as a person writes them, which split_words takes apart again."""
    text = " ".join(words)
    nicer = re.sub(r" ([,.;:!?)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", text))
    nicer = re.sub(r" - ", "-", nicer)
    return nicer if split_words(nicer) == list(words) else text


def shown(text: str) -> str:
    """The beginning of a caption or a word in quotation marks, fit for any terminal."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return f'"{text[:120]}..."' if len(text) > 120 else f'"{text}"'


def num_edits(a: str, b: str) -> int:
    """Letters to add, leave out, change, or swap with their neighbours, from one word to another
    (Damerau 1964; no letter twice)."""
    before, row = [], list(range(len(b) + 1))
    for i, letter in enumerate(a):
        above, before, row = before, row, [i + 1]
        for j, other in enumerate(b):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (letter != other)))
            if i and j and a[i - 1] == other and letter == b[j - 1]:
                row[-1] = min(row[-1], above[j - 1] + 1)
    return row[-1]


def is_slip(word: str, known: str) -> bool:
    """Whether so few letters differ, for words so long, that one is a slip of the pen for the
    other. Most neighbours of short words mean something else, and so does grandmother beside
    grandfather: of two edits, no more than two letters may come and go."""
    shorter, same = min(len(word), len(known)), len(word) == len(known)
    letters, others = Counter(word), Counter(known)
    if shorter < 5 or ((letters - others) + (others - letters)).total() > 2:
        return False
    edits = num_edits(word, known)
    return (edits == 1 and shorter >= 5 + same) or (edits == 2 and shorter >= 9)


@lru_cache(maxsize=65_536)
def _kept_words(caption: str) -> tuple[str, ...]:
    """`split_words`, remembered: training reads captions again and again."""
    return tuple(map(sys.intern, split_words(caption)))


class Tokenizer:
    """Words <-> numbers. The vocabulary is a plain list, special tokens first."""

    def __init__(self, vocabulary: Iterable[str] = SPECIAL_TOKENS):
        self.vocabulary = list(vocabulary)
        if self.vocabulary[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise ValueError(f"a vocabulary starts with {SPECIAL_TOKENS}")
        if not all(isinstance(word, str) for word in self.vocabulary):
            raise ValueError("a vocabulary holds words, and nothing else")
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}

    @classmethod
    def learn(
        cls, captions: Iterable[str], min_count: int = 2, max_size: int = 20_000
    ) -> "Tokenizer":
        """Keep the words that occur at least min_count times, the most frequent max_size of them.

        max_size counts the special tokens too. Equal counts are ordered by the alphabet, so that
        the same captions in any order give the same vocabulary.
        """
        counts = Counter(word for caption in captions for word in split_words(caption))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_count]
        return cls(SPECIAL_TOKENS + words[: max(0, max_size - len(SPECIAL_TOKENS))])

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, caption: str, max_tokens: int | None = None) -> list[int]:
        """<start> and the numbers of the words, cut to max_tokens in all. Unseen words: UNKNOWN."""
        ids = [START] + [self.ids.get(word, UNKNOWN) for word in _kept_words(caption)]
        return ids[:max_tokens]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of these numbers with spaces between; padding and <start> are left out."""
        return " ".join(self.vocabulary[i] for i in ids if i not in (PAD, START))

    def unknown_words(self, caption: str) -> list[str]:
        """The words of the caption that are not in the vocabulary, each once."""
        return [word for word in dict.fromkeys(split_words(caption)) if word not in self.ids]

    def nearest_word(self, word: str) -> str | None:
        """The known word that this one is a form of, or a slip of the pen for, if there is one;
        the most frequent where there are several. Rather none than one that means another thing:
        three is no tree, and a heart has no heat."""
        for form in (
            *(word.removesuffix(end) for end in ENDINGS if word.endswith(end)),
            word + "s",
        ):
            if len(min(form, word, key=len)) >= 3 and form in self.ids:
                return form
        if not word.isalpha():
            return None
        near = [known for known in self.vocabulary[len(SPECIAL_TOKENS) :]
                if known[0] == word[0] and known.isalpha() and is_slip(word, known)]  # fmt: skip
        return min(near, key=lambda known: num_edits(word, known), default=None)

    def state_dict(self) -> dict:
        """Plain values from which from_state_dict makes an equal tokenizer."""
        return {"vocabulary": list(self.vocabulary)}

    @classmethod
    def from_state_dict(cls, state: dict) -> "Tokenizer":
        return cls(state["vocabulary"])
