"""What could be meant by a word that the model does not know? model: a TextToImageModel."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizer import shown, split_words

SUGGESTING = 24  # captions in which known words are looked for
MAX_TOLD = 10  # words that are told one by one


def unknown_hints(model: Any, prompts: Sequence[str]) -> list[str]:
    """A line for each word that the model does not know, with a known one where that helps;
    for many, the first MAX_TOLD and how many more there are."""
    unknown = {}
    for prompt in prompts:
        for word in model.tokenizer.unknown_words(prompt):
            unknown.setdefault(word, []).append(prompt)
    lines = []
    for word, found in list(unknown.items())[:MAX_TOLD]:
        more, hint = f" and {len(found) - 1:,} more" if len(found) > 1 else "", ""
        if nearest := model.tokenizer.nearest_word(word):
            hint = f'; the nearest known one is "{nearest}"'
        elif known := suggest(model, found[0], word):
            hint = f"; known ones in its place: {', '.join(known)}"
        lines.append(f"unknown word {shown(word)} in {shown(found[0])}{more}{hint}")
    if len(unknown) > MAX_TOLD:
        lines.append(f"and {len(unknown) - MAX_TOLD:,} more unknown words")
    return lines


def suggest(model: Any, prompt: str, word: str) -> list[str]:
    """At most three known words that could stand for an unknown one of the prompt: those that
    the completer writes most often in its place, which is right before the next word, or, where
    it is the last, right after the one before it. None where that is no single place.
    """
    typed, ids = split_words(prompt), model.tokenizer.ids
    if word not in typed:
        return []
    place = typed.index(word)
    beside = typed[max(0, place - 1) : place], typed[place + 1 : place + 2]
    if not (model.completer and typed[1:] and word[0].isalpha()) or any(
        w not in ids or typed.count(w) > 1 for some in beside for w in some
    ):
        return []
    found, followers, anywhere = Counter(), set(), Counter()
    for caption in model.complete([prompt] * SUGGESTING, range(SUGGESTING)):
        written = [*split_words(caption), ""]
        anywhere.update(set(written))
        start, end = (written.index(some[0]) if some and some[0] in written else -1
                      for some in beside)  # fmt: skip
        if start < 0 < len(beside[0]) or end < 0 < len(beside[1]):
            continue  # what is beside it was not written
        end = start + 2 if not beside[1] else end
        if 1 < end - start <= 4 + (not beside[0]):  # more words are no single thing
            found[written[end - 1]] += 1
            followers.add(written[min(end, len(written) - 1)])
    total, repeated = found.total(), sum(found[w] for w in typed)
    # Where there is little, or the words of the prompt itself, its place was not found; and
    # words that all kinds of others follow, as big and red, do not end what a prompt names.
    if total * 4 < SUGGESTING or repeated * 4 > total or len(followers) * 3 > total:
        return []
    most = found.most_common(1)[0][1]
    known = [w for w, n in found.most_common(3)
             if w[:1].isalpha() and n > max(1, most / 4) and 2 * n > anywhere[w]]  # fmt: skip
    return known if len(known) > 1 else []  # a single one says little of the kind
