"""The 1,000 classes of ImageNet as timm ships them: WordNet ids in order, and their names."""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["class_titles", "refuse_unknown", "synsets"]


@cache
def synsets() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes, in the order of their numbers."""
    return tuple(_read("imagenet_synsets.txt").split())


def class_titles(ids: Iterable[str]) -> tuple[str, ...]:
    """Return what classes are called: their words, or the id where WordNet has none.

    An id stands behind words that another class of ImageNet has, too: two are called "crane".
    """
    lines = _read("imagenet_synset_to_lemma.txt").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    own = [words.get(each, each) for each in synsets()]
    shared = {each for each in own if own.count(each) > 1}
    titles = ((each, words.get(each, each)) for each in ids)
    return tuple(f"{title} ({each})" if title in shared else title for each, title in titles)


def refuse_unknown(root: Path, ids: Iterable[str]) -> None:
    """Raise where a folder is not named by one of the 1,000 ids."""
    strange = sorted(set(ids) - set(synsets()))
    if strange:
        raise ValueError(
            f"{root} has {len(strange)} folders that are no class of ImageNet, such as "
            f"{strange[0]}: expected WordNet ids such as {synsets()[0]}"
        )


def _read(name: str) -> str:
    """Read a list inside of timm without importing it, which would take seconds."""
    spec = find_spec("timm")
    for place in (spec.submodule_search_locations if spec else None) or ():
        path = Path(place) / "data" / "_info" / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ValueError(f"timm has no data/_info/{name}: install the version that attrreg asks for")
