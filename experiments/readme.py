"""Write tables and numbers of the READMEs from `results/*.json`: none there is typed by hand.

    python -m experiments.readme [--check]

A table stands between `<!-- table:NAME -->` and `<!-- end:NAME -->`, a number in the prose as
`<!--n:NAME-->text<!--/-->`; `tables.py`, `tables_speed.py` and `_numbers.py` have the names. The
table `rooms` is the map in the docstring of `egs_jax`. `--check` changes nothing and exits with 1
if one of the files is not what it would write.
"""

import re
import sys
from pathlib import Path

import egs_jax
from experiments._markdown import markdown
from experiments._numbers import numbers
from experiments.tables import table

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for path in (ROOT / "README.md", ROOT / "experiments/README.md", ROOT / "kernels/README.md")
    if path.exists()
]
"""Files that have tables and numbers."""
TABLE = re.compile(r"<!-- table:(\w+) -->\n(.*?)<!-- end:(\w+) -->", re.DOTALL)
NUMBER = re.compile(r"<!--n:([\w.]+)-->.*?<!--/-->", re.DOTALL)
ROOM = re.compile(r"^([a-z_]+) {2,}(\S.*(?:\n {6,}\S.*)*)", re.MULTILINE)


def filled(text: str) -> str:
    """Return a README's text with every marked table and number made anew.

    Raises:
      ValueError: if a mark is not closed, or no table or number has its name.
    """
    for kind, opening, whole in (("table", "<!-- table:", TABLE), ("number", "<!--n:", NUMBER)):
        if text.count(opening) != len(whole.findall(text)):
            raise ValueError(f"a {kind} has an opening mark but no closing one")
    makers = numbers()

    def new_table(found: re.Match) -> str:
        name, _, end = found.groups()
        if name != end:
            raise ValueError(f"table {name} is closed as {end}")
        made = rooms() if name == "rooms" else table(name)
        return f"<!-- table:{name} -->\n{made}\n<!-- end:{name} -->"

    def new_number(found: re.Match) -> str:
        name = found.group(1)
        if name not in makers:
            raise ValueError(f"no number is called {name!r}; _numbers.py has their names")
        return f"<!--n:{name}-->{makers[name]()}<!--/-->"

    return NUMBER.sub(new_number, TABLE.sub(new_table, text))


def rooms() -> str:
    """Return the map of `egs_jax`: a row a room, in the order of the data's way."""
    package = ROOT / "egs_jax"
    found = [(name, " ".join(does.split())) for name, does in ROOM.findall(egs_jax.__doc__)]

    def link(row: tuple[str, str]) -> str:
        place = row[0] if (package / row[0]).is_dir() else f"{row[0]}.py"
        return f"[`{row[0]}`](egs_jax/{place})"

    return markdown({"room": link, "what is in it": lambda row: row[1]}, found)


def main() -> int:
    """Write or check the files."""
    texts = {path: path.read_text("utf-8") for path in FILES}
    new = {path: filled(text) for path, text in texts.items()}
    if "--check" in sys.argv:
        return int(new != texts)
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
