"""The house rules that a program can check: layers, sizes, docstrings, dangerous calls, README."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from egs_jax.__main__ import _parser

ROOT = Path(__file__).parents[1]
MOST_LINES, LONGEST_FUNCTION = 400, 80

# A file of egs_jax imports files of lower layers, or of its own without a cycle; `kernels`
# lies under all of them.
LAYERS = {
    0: ("errors", "package_index", "ahead"),
    1: (
        "config", "config_text", "assets", "geometry", "litert", "crop", "run_log", "video_writer",
        "hosts", "environment",
    ),
    2: (
        "encoder_process", "video", "audio_file", "whisper", "audio", "face_mesh", "landmarks",
        "segmentation",
    ),
    3: (
        "bundle_adjustment", "tracking", "pose_refinement", "track_report", "masks", "head_cloud",
        "capture_check", "face_pass",
        "kan", "triplane", "attention", "tokens", "decoders", "gaussians", "density", "perceptual",
    ),
    4: ("types", "losses", "metrics", "optimizer", "checkpoint", "report"),
    5: ("batches", "dataset", "drive", "baselines", "model"),
    6: ("preprocess", "train", "parallel", "resident", "prepared"),
    7: ("loop", "avatar", "infer", "stream", "render"),
    8: ("evaluate",),
    9: (
        "voice", "performer_anatomy", "performer_mesh", "performer_parts", "performer_head",
        "performer_shading", "performer",
    ),
    10: ("demo", "__init__"),
    11: ("__main__",),
}  # fmt: skip
LAYER = {name: number for number, names in LAYERS.items() for name in names}

# Files that neither have a test file nor are imported by one, and the test files that cover them.
COVERED_BY = {
    "batches": "egs_jax/test_dataset.py",
    "bundle_adjustment": "egs_jax/test_tracking.py",
    "litert": "egs_jax/test_segmentation.py",
    "performer_parts": "egs_jax/test_performer.py",
}
UNPICKLER = "egs_jax/assets.py"
"""The one file that may read pickles: with a reader that can name array parts and nothing else."""


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL = sources("egs_jax", "kernels", "experiments")
OURS = sources("egs_jax")
every_file = pytest.mark.parametrize("path", ALL, ids=name_of)


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


def imports_of(path: Path) -> set[str]:
    """Files of egs_jax that a file of egs_jax imports."""
    parts = (name.split(".") for name in modules_named(parse(path)))
    found = {p[1] for p in parts if p[0] == "egs_jax" and len(p) > 1}
    return {name for name in found if (ROOT / "egs_jax" / f"{name}.py").exists()} - {path.stem}


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


def test_every_file_has_one_layer():
    assert set(LAYER) == {path.stem for path in OURS}
    assert len(LAYER) == sum(map(len, LAYERS.values()))


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_imports_go_down(path):
    upward = {n: LAYER[n] for n in imports_of(path) if LAYER[n] > LAYER[path.stem]}
    assert not upward, f"{path.stem} is in layer {LAYER[path.stem]}, imports {upward}"


def test_imports_have_no_cycle():
    assert find_cycle({path.stem: imports_of(path) for path in OURS}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_kernels_stand_alone():
    for path in sources("kernels"):
        roots = {name.split(".")[0] for name in modules_named(parse(path))}
        assert not roots & {"egs_jax", "experiments", "tests"}, name_of(path)
    for path in OURS:
        roots = {name.split(".")[0] for name in modules_named(parse(path))}
        assert not roots & {"experiments", "tests"}, name_of(path)


def test_public_names_exist():
    import egs_jax

    for name in egs_jax.__all__:
        assert getattr(egs_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        egs_jax.nothing  # noqa: B018


def test_reading_order_names_every_step():
    order = ast.get_docstring(parse(ROOT / "egs_jax" / "__init__.py"))
    named = set(re.findall(r"`([a-z_]+)`", order))
    steps = {"preprocess", "dataset", "triplane", "kan", "gaussians", "density", "tokens"}
    steps |= {"attention", "decoders", "losses", "metrics", "model", "train", "loop", "infer"}
    assert steps <= named <= set(LAYER)


@every_file
def test_file_is_short_and_explained(path):
    text, tree = path.read_text(encoding="utf-8"), parse(path)
    assert len(text.splitlines()) <= MOST_LINES
    assert not text or ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            explained = len((ast.get_docstring(node) or "").splitlines())
            length = node.end_lineno - node.lineno + 1 - explained
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__")


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


@every_file
def test_public_things_have_docstrings(path):
    assert public_without_docstring(parse(path)) == []


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


@every_file
def test_no_pickles_no_shells(path):
    expected = ["pickle"] if name_of(path) == UNPICKLER else []
    assert dangers(parse(path)) == expected


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


def test_every_file_is_tested():
    tests = [path for path in sources("tests") if path.name.startswith("test_")]
    imported = set().union(*(modules_named(parse(path)) for path in tests))
    named = {path.stem.removeprefix("test_") for path in tests}
    tested = {p.stem for p in OURS if f"egs_jax.{p.stem}" in imported or p.stem in named}
    listed = tested & set(COVERED_BY)
    assert not listed, "tested directly by now; take it off the list"
    for name, test in COVERED_BY.items():
        assert (ROOT / "tests" / test).exists(), f"{name}: {test} is missing"
    untested = set(LAYER) - tested - set(COVERED_BY) - {"__init__"}
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


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="there is no README.md yet")
def test_readme_commands_parse():
    commands = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"preprocess", "train", "render"} <= {command[0] for command in commands}
    for command in commands:
        _parser(command).parse_args(command)


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="there is no README.md yet")
def test_readme_files_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target
