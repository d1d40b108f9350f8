"""The house rules that a program can check: layers, sizes, docstrings, dangerous calls, README."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from egs_jax.__main__ import _parser

ROOT = Path(__file__).parents[1]
MOST_LINES, LONGEST_FUNCTION = 400, 80

# The one map: the order of the rooms in the docstring of `egs_jax`.
_MAP = ast.get_docstring(ast.parse((ROOT / "egs_jax" / "__init__.py").read_text()))
ROOMS = re.findall(r"^([a-z_]+) {2,}\S", _MAP, re.MULTILINE)
ABOVE_ALL = ("__init__", "__main__")

# Files that neither have a test file nor are imported by one, and the test files that cover them.
COVERED_BY = {
    "avatar.token_kernels.frame_tokens_kernels": "egs_jax/avatar/test_token_kernels.py",
    "data.batches": "egs_jax/data/test_dataset.py",
    "preprocess.bundle_adjustment": "egs_jax/preprocess/test_tracking.py",
    "adnerf.imported_pictures": "egs_jax/adnerf/test_imported.py",
    "face.litert": "egs_jax/face/test_segmentation.py",
    "performer.parts": "egs_jax/performer/test_film.py",
    "training.state": "egs_jax/training/test_step.py",
}
UNPICKLER = "egs_jax/runtime/array_pickle.py"
"""The one file that may read pickles: with a reader that can name array parts and nothing else."""


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL = sources("egs_jax", "kernels", "experiments", "examples")
OURS = sources("egs_jax")


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_named(tree: ast.AST) -> set[str]:
    """Everything imported, wherever in the file; `from a import b` names a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; name the package"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_of(path: Path) -> str:
    """`training.step` of egs_jax/training/step.py, `training` of its __init__.py."""
    parts = path.relative_to(ROOT / "egs_jax").with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in OURS}


def room_of(module: str) -> int:
    """Number of a module's room in the map."""
    room = module.split(".", maxsplit=1)[0]
    return len(ROOMS) if room in ABOVE_ALL else ROOMS.index(room)


def imports_of(module: str) -> set[str]:
    """Modules of egs_jax that a module of egs_jax imports."""
    named = (name.partition("egs_jax.") for name in modules_named(parse(MODULES[module])))
    return {after for before, found, after in named if found and not before} & set(MODULES) - {
        module,
        module.split(".", maxsplit=1)[0],
    }


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some cycle of a graph, or nothing."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for after in sorted(graph[node]):
                if cycle := walk(after, [*way, node]):
                    return cycle
            done.add(node)
        return []

    return next((cycle for node in graph if (cycle := walk(node, []))), [])


def test_the_map_names_every_room():
    assert len(ROOMS) == len(set(ROOMS))
    assert {module.split(".")[0] for module in MODULES} == {*ROOMS, *ABOVE_ALL}


def test_imports_go_up_the_map():
    """No module imports one of a room that comes after its own."""
    down = [(m, name) for m in MODULES for name in imports_of(m) if room_of(name) > room_of(m)]
    assert down == []


def test_imports_have_no_cycle():
    assert find_cycle({module: imports_of(module) for module in MODULES}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_kernels_stand_alone():
    for path in sources("kernels"):
        roots = {name.split(".")[0] for name in modules_named(parse(path))}
        assert not roots & {"egs_jax", "experiments", "examples", "tests"}, name_of(path)
    for path in OURS:
        roots = {name.split(".")[0] for name in modules_named(parse(path))}
        assert not roots & {"experiments", "examples", "tests"}, name_of(path)


def test_public_names_exist():
    import egs_jax

    for name in egs_jax.__all__:
        assert getattr(egs_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        egs_jax.nothing  # noqa: B018


def faults_of_size(text: str, most: int = MOST_LINES, longest: int = LONGEST_FUNCTION) -> list[str]:
    """Too long a file or function, no docstring, annotations that nobody can check."""
    tree = ast.parse(text)
    faults = [f"{count} lines"] if (count := len(text.splitlines())) > most else []
    faults += ["no module docstring"] if text and not ast.get_docstring(tree) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            explained = len((ast.get_docstring(node) or "").splitlines())
            length = node.end_lineno - node.lineno + 1 - explained
            faults += [f"{node.name}: {length} lines"] if length > longest else []
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            faults.append("imports from __future__")
    return faults


def test_files_are_short_and_explained():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in ALL}
    assert {name: faults for name, text in texts.items() if (faults := faults_of_size(text))} == {}


def test_size_check_finds():
    text = "from __future__ import annotations\ndef f():\n  'so'\n  x = 1\n  return x\n"
    faults = ["5 lines", "no module docstring", "imports from __future__", "f: 3 lines"]
    assert sorted(faults_of_size(text, most=4, longest=2)) == sorted(faults)
    assert faults_of_size("'so'\n" + text.partition("\n")[2], most=5, longest=3) == []


def public_without_docstring(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods that say nothing."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    scopes = [(tree, "")]
    missing = []
    while scopes:
        scope, prefix = scopes.pop()
        for node in scope.body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                name = prefix + node.name
                override = any(getattr(d, "id", "") == "override" for d in node.decorator_list)
                if not (ast.get_docstring(node) or override):
                    missing.append(name)
                if isinstance(node, ast.ClassDef):
                    scopes.append((node, name + "."))
    return missing


def test_public_things_have_docstrings():
    missing = {name_of(path): public_without_docstring(parse(path)) for path in ALL}
    assert {name: things for name, things in missing.items() if things} == {}


def test_docstring_check_finds_what_is_missing():
    tree = ast.parse("def f(): pass\nclass A:\n  'a'\n  def g(self): pass\n  def _h(self): pass")
    assert public_without_docstring(tree) == ["f", "A.g"]


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"os.system", "os.popen", "eval", "exec", "subprocess.getoutput", "numpy.load", "np.load"}
CALLS |= {"torch.load", "jnp.load", "jax.numpy.load", "pickle.load", "pickle.loads"}


def dangers(tree: ast.Module) -> list[str]:
    """Pickles, shells, and evaluated text."""
    found = [name for name in modules_named(tree) if name and name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        named = {k.arg: getattr(k.value, "value", "?") for k in node.keywords}
        safe = called.endswith("load") and "torch" not in called
        if called in CALLS and not (safe and named.get("allow_pickle") is False):
            found.append(f"{called} in line {node.lineno}")
        if named.get("shell", False) or named.get("allow_pickle", False):
            found.append(f"{called} in line {node.lineno}")
    return found


def test_no_pickles_no_shells():
    found = {name_of(path): dangers(parse(path)) for path in ALL}
    assert {name: things for name, things in found.items() if things} == {UNPICKLER: ["pickle"]}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "subprocess.run('x', shell=yes)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_danger_check_finds(text):
    assert dangers(ast.parse(text))


def test_danger_check_lets_safe_code_pass():
    safe = "np.load('x', allow_pickle=False)\nsubprocess.run(['x'], shell=False)\njson.load(f)"
    assert dangers(ast.parse(safe)) == []


def unnamed_encodings(tree: ast.Module) -> list[str]:
    """Text read or written in the machine's own encoding, which is not UTF-8 everywhere."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        method, given = called.rpartition(".")[2], {k.arg: k.value for k in node.keywords}
        if method == "open":
            built_in = called == "open"
            modes = node.args[built_in : built_in + 1]
            mode = getattr(given.get("mode", modes[0] if modes else None), "value", None)
            faulty = built_in if mode is None else set(str(mode)) <= set("rwaxt+")
        else:
            wanted = {"read_text": 1, "write_text": 2}.get(method, 0)
            faulty = len(node.args) < wanted or bool({"text", "universal_newlines"} & given.keys())
        if faulty and "encoding" not in given:
            found.append(f"{called} in line {node.lineno}")
    return found


def test_text_is_utf8_whatever_the_machines_language():
    found = {name_of(path): unnamed_encodings(parse(path)) for path in ALL}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "text",
    [
        "p.read_text()",
        "p.write_text('a')",
        "open(p)",
        "open(p, 'w')",
        "p.open('a')",
        "p.open(mode='w')",
        "subprocess.run(c, text=True)",
    ],
)
def test_encoding_check_finds(text):
    assert unnamed_encodings(ast.parse(text))


def test_encoding_check_lets_the_others_pass():
    good = (
        "p.read_text('utf-8')\np.write_text('a', encoding='utf-8')\nopen(p, 'rb')\np.open('wb')\n"
    )
    good += "p.open('a', encoding='utf-8')\nDataset.open(p)\nav.open(p)\nwave.open(str(p), 'wb')"
    assert unnamed_encodings(ast.parse(good)) == []


def test_every_file_is_tested():
    tests = [path for path in sources("tests") if path.name.startswith("test_")]
    imported = set().union(*(modules_named(parse(path)) for path in tests))
    tested = {module for module in MODULES if f"egs_jax.{module}" in imported}
    listed = tested & set(COVERED_BY)
    assert not listed, "tested directly by now; take it off the list"
    for name, test in COVERED_BY.items():
        assert (ROOT / "tests" / test).exists(), f"{name}: {test} is missing"
    files = {module for module, path in MODULES.items() if path.stem != "__init__"}
    untested = files - tested - set(COVERED_BY)
    assert not untested, "no test imports these files; write one, or list the one that covers them"


# --- README ---------------------------------------------------------------------------------------


def commands_of(text: str) -> list[list[str]]:
    """Arguments of every `egs-jax` or `python -m egs_jax` command in the fenced blocks."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    pattern = re.compile(r"^\s*\$?\s*(?:\S*python3? -m egs_jax|egs-jax)\s+(.*)$")
    found = (pattern.match(line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def test_commands_are_found():
    text = (
        "```sh\n$ python -m egs_jax train tiny \\\n --run-dir 'a b'  # so\nmake\n```\negs-jax x\n"
    )
    assert commands_of(text) == [["train", "tiny", "--run-dir", "a b"]]


def test_readme_commands_parse():
    commands = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"preprocess", "train", "render"} <= {command[0] for command in commands}
    for command in commands:
        _parser(command).parse_args(command)


def test_readme_is_what_a_newcomer_reads():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


def test_readme_files_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
