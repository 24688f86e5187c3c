"""Every public name says what it does, what it takes and what it gives, with an example that runs."""

import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest

import cnet

# A base class's own page explains what all its subclasses share; these are its methods' usual names.
PUBLIC_MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cnet.__path__, "cnet.")
    if not any(part.startswith("_") for part in module.name.split(".")) and not module.name.startswith("cnet.kernels")
)


def public_objects():
    """Public classes and functions, each once, where they are defined."""
    found = {}
    for name in ["cnet", *PUBLIC_MODULES]:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


OBJECTS = public_objects()


def methods():
    """Public methods that a public class defines itself."""
    for path, value in OBJECTS.items():
        if inspect.isclass(value):
            for name, member in vars(value).items():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{path}.{name}", value, name


def parameters_section(text):
    match = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


@pytest.mark.parametrize("path", sorted(OBJECTS))
def test_public_names_are_documented(path):
    value = OBJECTS[path]
    text = inspect.getdoc(value) or ""
    assert len(text.split("\n\n")[0]) >= 15 and text.split("\n\n")[0].rstrip().endswith((".", ":")), (
        "a summary sentence"
    )
    assert "Examples\n--------\n" in text and ">>>" in text, "an example"
    section = parameters_section(text)
    signature = inspect.signature(value)
    entries = re.findall(r"^([\w*, ]+?) :", section, re.MULTILINE)
    documented = {name.strip() for names in entries for name in names.split(",")}
    for name, parameter in signature.parameters.items():
        expected = f"*{name}" if parameter.kind is parameter.VAR_POSITIONAL else name
        assert expected in documented, f"parameter {name} has no entry in the Parameters section"


@pytest.mark.parametrize("path", sorted(path for path, *_ in methods()))
def test_public_methods_are_documented(path):
    owner, name = next((owner, name) for found, owner, name in methods() if found == path)
    assert inspect.getdoc(getattr(owner, name)), path


@pytest.mark.parametrize(
    "path", sorted(p for p, v in OBJECTS.items() if p.startswith("cnet.layers") and inspect.isclass(v))
)
def test_layers_state_their_shapes(path):
    if path.endswith("base.Layer"):
        pytest.skip("the base has no shape of its own")
    assert "Shapes\n------\n" in inspect.getdoc(OBJECTS[path])


@pytest.mark.parametrize("name", ["cnet", *PUBLIC_MODULES])
def test_examples_run(name):
    module = importlib.import_module(name)
    with np.printoptions(legacy=False):
        failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_exports_exist_and_are_sorted():
    for name in ["cnet", *PUBLIC_MODULES]:
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        assert all(hasattr(module, public) for public in exported)
        assert len(set(exported)) == len(exported), name
