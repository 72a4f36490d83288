"""The rules that keep the house habitable: what a board imports, who may import whom, and that formats live in targets."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from edgeseg.registry import targets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "edgeseg"
FILES = sorted(CORE.rglob("*.py"))

HEAVY = {
    *("torch", "torchvision", "torchao", "onnx", "onnxruntime", "onnxslim", "onnxscript", "tensorflow", "keras", "jax"),
    *("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "tflite_runtime", "openvino", "nncf", "ncnn", "pnnx", "paddle"),
    *("coremltools", "tensorrt", "faster_coco_eval", "pycocotools", "supervision", "scipy", "matplotlib", "pandas", "PIL"),
    *("aiohttp", "paho", "picamera2", "ray", "fsspec", "wandb", "mlflow", "tensorboard"),
}
# What a board imports, and what starts a command: everything here must do without any runtime and without PyTorch.
LEAN = (
    "cli",
    "live",
    "model",
    "predict",
    "running",
    "environments",
    "fleet",
    "boards",
    "manifest",
    "registry",
    "errors",
    "resources",
    "store",
    "yaml_file",
    "habits",
    "about",
    "kernel",
    "download",
    "runs",
)
NEEDS_TORCH = {"edgeseg.data.loader"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that a node imports; ``from a import b`` counts as ``a.b``, what lies beside it is left out."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: neither bodies of functions nor those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lean_modules() -> list[str]:
    names = [module_name(f) for f in FILES]
    return [n for n in names if n not in NEEDS_TORCH and (n == "edgeseg" or n.split(".")[1] in (*LEAN, "vision", "data"))]


def test_lean_modules_import_nothing_heavy():
    code = f"""
import importlib, json, sys
heavy, found = set({sorted(HEAVY)!r}), {{}}
for name in {lean_modules()!r}:
    before = set(sys.modules)
    importlib.import_module(name)
    bad = sorted(heavy & {{m.split('.')[0] for m in set(sys.modules) - before}})
    if bad:
        found[name] = bad
print(json.dumps(found))
"""
    assert json.loads(run(code)) == {}


def test_import_edgeseg_imports_the_standard_library_alone():
    code = "import sys; import edgeseg; print(*{m.split('.')[0] for m in sys.modules} & {'numpy', 'cv2', 'yaml', 'typer'})"
    assert run(code).strip() == ""


def test_lean_modules_work_where_torch_is_not_installed():
    code = f"""
import importlib, sys
for name in {sorted(HEAVY)!r}:
    sys.modules[name] = None
for name in {lean_modules()!r}:
    importlib.import_module(name)
print("fine")
"""
    assert run(code).strip() == "fine"


@pytest.mark.parametrize("name", sorted(targets()))
def test_a_runtime_imports_its_own_package_and_no_converter(name):
    target = targets()[name]
    file = target.folder / "runtime.py"
    if not file.is_file():
        pytest.skip(f"{name} is not run here")
    own = {part.split(".")[0] for m in target.modules for part in m.split("|")}
    allowed = {"numpy", "cv2", "yaml", *own}
    lean = {"environments", "errors", "manifest", "registry", "resources", "vision"}
    for node in at_import(tree(file)):
        assert getattr(node, "level", 0) < 2, f"{file}: another format's packages are its own"
        for dotted in imported(node):
            top, *rest = dotted.split(".")
            if top == "edgeseg":
                assert rest and rest[0] in lean, f"{file}: {dotted}"
            else:
                assert top in allowed or top in sys.stdlib_module_names, f"{file}: {dotted}"


def test_the_table_for_people_is_the_contract_that_is_enforced():
    """The rows of CONTRIBUTING.md are the layers of import-linter, which ``make lint`` runs, and no part is left out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [set(row.split(" : ")) for row in settings[0]["layers"]]
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| part of `edgeseg/` |")[1].splitlines()[2:]
    table = [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in takewhile(lambda s: s.startswith("|"), lines)]
    assert table == layers
    assert {module_name(f).split(".")[1] for f in FILES if f != CORE / "__init__.py"} == set().union(*layers)


def test_vision_and_the_contract_files_know_no_torch_even_lazily():
    files = [
        *sorted((CORE / "vision").glob("*.py")),
        *(CORE / f"{n}.py" for n in ("manifest", "registry", "running/pipeline")),
    ]
    for file in files:
        for node in ast.walk(tree(file)):
            for dotted in imported(node):
                top = dotted.split(".")[0]
                assert top not in HEAVY - {"supervision"}, f"{file}: {dotted}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_core_names_no_format(file):
    """No comparison with a format's name, alias or suffix outside the targets' own folders."""
    words = {w for t in targets().values() for w in (t.name, t.suffix, *t.aliases)}
    for node in ast.walk(tree(file)):
        if not isinstance(node, (ast.Compare, ast.MatchValue)):
            continue
        constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert not words.intersection(constants), f"{file}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("file", [*FILES, *sorted((ROOT / "targets").rglob("*.py"))], ids=lambda f: str(f.relative_to(ROOT)))
def test_files_stay_readable(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450


def test_a_cold_predict_loads_neither_validation_library_nor_printer_nor_yaml():
    code = """
import sys
from edgeseg.cli import run
import edgeseg.running.pipeline, edgeseg.predict.result, edgeseg.predict.writer
assert run(["predict", "nothing.onnx", "nothing.png"]) == 2
print(*{m.split(".")[0] for m in sys.modules} & {"pydantic", "rich", "pandas", "torch", "optuna", "yaml"})
"""
    assert run(code).strip() == ""


def test_the_main_process_of_an_int8_export_needs_no_pytorch_not_even_for_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    code = (
        "import pathlib, sys; from edgeseg.data.shapes import make_shapes; from edgeseg.export.api import export; "
        "from edgeseg.export.options import ExportOptions; from edgeseg.resources import demo_checkpoint; "
        "data = make_shapes(pathlib.Path('shapes'), train=8, val=8, size=64, seed=1); "
        "o = ExportOptions(int8=True, data=str(data), imgsz=64, images=3); "
        "(made,) = export(demo_checkpoint(), ['onnx'], o, out='.', force=True); "
        "print(made.error, made.gate['images'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "None 8 False"
