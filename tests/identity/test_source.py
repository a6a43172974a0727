"""The code behind classes and functions: what changes its digest, and what does not."""

import linecache
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from lit_aux.identity.modules import library_of
from lit_aux.identity.source import NoSourceError, add_code, bytecode, globals_in

NET = """
'''A network.'''
from torch import nn
from {package}helper import act

class Net(nn.Module):
    def forward(self, x):
        '''Forward.'''
        return act(x)  # a comment
"""
HELPER = """
import math
import torch

def act(x):
    return torch.relu(x)
"""


def code_of(thing: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    add_code(found, thing)
    return found


def loaded(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *others: str) -> ModuleType:
    """Import a module from a folder anew, and forget it and others before."""
    for each in (name, *others):
        sys.modules.pop(each, None)
    monkeypatch.syspath_prepend(folder)
    return __import__(name, fromlist=["*"])


def written(folder: Path, net: str = NET, helper: str = HELPER, package: str = "") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "identity_net.py").write_text(net.format(package=package or "identity_"))
    (folder / "identity_helper.py").write_text(helper)
    return folder


def digests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return code_of(loaded(folder, "identity_net", monkeypatch, "identity_helper").Net)


@pytest.mark.parametrize(
    ("net", "helper", "same"),
    [
        (NET, HELPER, True),
        (NET.replace("# a comment", "# another"), HELPER, True),
        (NET.replace("A network.", "Somebody's network."), HELPER, True),
        (NET.replace("        '''Forward.'''\n", ""), HELPER, True),
        (NET.replace("\nclass", "\n\n\n\nclass"), HELPER + "\n\n", True),
        (NET.replace("act(x)", "act(2 * x)"), HELPER, False),
        (NET, HELPER.replace("relu", "tanh"), False),  # the helper that forward calls
        (NET, HELPER.replace("import math", "SCALE = 2"), False),
    ],
)
def test_only_what_runs_counts(
    net: str, helper: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digests(written(tmp_path / "a"), monkeypatch)
    assert set(first) == {"identity_net", "identity_helper"}
    second = digests(written(tmp_path / "b", net, helper), monkeypatch)
    assert (first == second) is same


def test_packages_relative_and_lazy_imports_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "identity_pack"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("LEVEL = 1\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "net.py").write_text(
        "from .. import blocks\n\ndef f(x):\n    from importlib import import_module\n"
        "    return blocks.g(import_module('identity_pack.late').h(x))\n"
    )
    (package / "blocks.py").write_text("def g(x):\n    from . import lazy\n    return lazy.k(x)\n")
    (package / "late.py").write_text("def h(x):\n    return x\n")
    (package / "lazy.py").write_text("def k(x):\n    return x\n")
    names = ["identity_pack", *(f"identity_pack.{n}" for n in ("deep", "deep.net", "blocks", "late", "lazy"))]
    found = code_of(loaded(tmp_path, "identity_pack.deep.net", monkeypatch, *names).f)
    assert sorted(found) == sorted(names)
    assert "identity_pack.late" not in sys.modules, "nothing is imported for it"


def test_libraries_go_by_their_versions() -> None:
    import timm
    import torch

    assert [library_of(name) for name in ("torch.nn", "json", "lit_aux.models", "timm", "builtins")] == [
        "torch", "python", "lit_aux", "timm", "python"
    ]  # fmt: skip
    for thing in (torch.nn.Linear, timm.create_model, Path, dict):
        assert code_of(thing) == {}


def test_an_editable_install_is_source(tmp_path: Path) -> None:
    """A path file in site-packages, as editable installs leave, makes no library of what it points to."""
    (tmp_path / "site-packages").mkdir()
    project = written(tmp_path / "project" / "src")
    (tmp_path / "site-packages" / "editable.pth").write_text(f"{project}\n")
    (tmp_path / "site-packages" / "installed_one.py").write_text("def f():\n    pass\n")
    script = """
import site, sys
site.addsitedir(sys.argv[1])
import identity_net, installed_one
from lit_aux.identity.modules import library_of
from lit_aux.identity.source import add_code
found = {}
add_code(found, identity_net.Net)
print(sorted(found), library_of("installed_one"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site-packages")], capture_output=True, text=True
    )
    assert done.stdout.strip() == "['identity_helper', 'identity_net'] installed_one", done.stderr


def cell(source: str, name: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a notebook's cell as IPython does: under a name of its own, its text in linecache."""
    monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(True), name))
    exec(compile(source, name, "exec"), namespace)


def test_a_notebook_has_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    texts = [
        "class Net:\n    def f(self, x):\n        return x + 1\n",
        "# a remark\nclass Net:\n    def f(self, x):\n        return x + 1  # one more\n",
        "class Net:\n    def f(self, x):\n        return x + 2\n",
        "class Net:\n    size = 3\n",
    ]
    found = []
    for number, text in enumerate(texts):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        cell(text, f"<ipython-input-{number}-0123>", namespace, monkeypatch)
        found.append(code_of(namespace["Net"]))
    assert found[0] == found[1] != found[2]
    assert found[3] not in found[:3]


def test_without_source_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {"__name__": __name__}
    exec("class Net:\n    def f(self):\n        return 1\n\nf = lambda x: x\n", namespace)
    for name in ("Net", "f"):
        with pytest.raises(NoSourceError, match="no source"):
            code_of(namespace[name])


def test_a_file_edited_after_its_import_is_not_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(written(tmp_path), "identity_net", monkeypatch, "identity_helper")
    code_of(module.Net)
    (tmp_path / "identity_helper.py").write_text("# moved\n" + HELPER)
    code_of(module.Net)  # a comment more: the same code
    (tmp_path / "identity_helper.py").write_text(HELPER.replace("relu", "sigmoid"))
    with pytest.raises(NoSourceError, match=r"identity_helper\.py was changed after it was imported"):
        code_of(module.Net)


def test_what_a_function_does() -> None:
    def one(x: int) -> int:
        """Return something."""
        return x + 1

    def other(x: int) -> int:
        return x + 1

    assert bytecode(one.__code__) == bytecode(other.__code__)
    functions: list[FunctionType] = [lambda x: x * 0.9, lambda x: x * 0.8, lambda x: "a", lambda x: "b"]  # type: ignore[list-item]
    assert len({bytecode(f.__code__) for f in functions}) == 4
    assert list(globals_in((lambda x: Path(x).name).__code__)) == ["Path"]
