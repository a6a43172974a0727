"""Files in the format of WordNet's nouns."""

from pathlib import Path

from lit_aux.data import wordnet


def write_noun(folder: Path, large: int = 60, small: int = 9) -> Path:
    """A file of WordNet's format: a licence, then a line a sense; two senses of one gloss."""
    lines = ["  1 This software and database is being provided to you, the LICENSEE  "]
    offset = 1740
    for number, name in enumerate(wordnet._NAMES.split(), start=3):
        for sense in range(large if name in wordnet.LARGE else small):
            offset += 100
            head = f"{offset:08d} {number:02d} n 02 word_{sense} 0 other 0 001 @ 00001740 n 0000"
            lines.append(f'{head} | a kind of {name} with number {sense}; "an example | of {name}"  ')
    lines.append(
        f'{offset + 100:08d} 05 n 01 again 0 000 | a kind of animal with number 0; "an example | of animal"  '
    )
    file = folder / "data.noun"
    file.write_text("\n".join(lines) + "\n")
    return file
