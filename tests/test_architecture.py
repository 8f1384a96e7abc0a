"""Imports run one way: pure parts <- LightningModules and datamodules <- callbacks <- commands."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_modules", "datamodules", "callbacks")
PURE = (
    "lightning_modules.networks",
    "lightning_modules.losses",
    "lightning_modules.analysis",
    "lightning_modules.ensemble",
    "lightning_modules.export_formats",
    "lightning_modules.lazy_inference",
    "datamodules.bitstream",
)
COMMANDS = (
    "lightning_modules.chain",
    "lightning_modules.chain_checks",
    "lightning_modules.cli",
    "lightning_modules.cost_command",
    "lightning_modules.data_command",
    "lightning_modules.export_command",
    "lightning_modules.flow_command",
    "lightning_modules.prepare_command",
    "lightning_modules.trainer_cli",
    "lightning_modules.run_directory",
    "lightning_modules.loggers",
    "lightning_modules.wandb_run",
    "lightning_modules.report",
    "lightning_modules.reproduce",
    "lightning_modules.results",
    "lightning_modules.flatness_comparison",
    "lightning_modules.trade_off_comparison",
    "lightning_modules.resolution_comparison",
    "lightning_modules.visual_comparison",
)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every imported module and name, dotted, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def forbidden(module: str) -> tuple[str, ...]:
    """What `module` may not import."""
    if is_in(module, COMMANDS):
        return ()
    if is_in(module, PURE):
        return ("lightning", "pytorch_lightning", "callbacks", *COMMANDS)
    if is_in(module, ("datamodules",)):
        return ("lightning_modules", "callbacks")
    if is_in(module, ("lightning_modules",)):
        return ("callbacks", *COMMANDS)
    return COMMANDS


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_one_way(path):
    module = module_of(path)
    wrong = {name for name in imports_of(path) if is_in(name, forbidden(module))}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.is_relative_to(ROOT / "lightning_modules")], ids=module_of
)
def test_modules_know_only_the_types_of_the_data(path):
    if is_in(module_of(path), COMMANDS):
        pytest.skip("commands sit on top")
    wrong = {
        name
        for name in imports_of(path)
        if is_in(name, ("datamodules",)) and not is_in(name, ("datamodules.clip", "datamodules.failure"))
    }
    assert not wrong, f"{module_of(path)} must not import {sorted(wrong)}"


def test_every_source_file_is_covered():
    assert len(FILES) > 20
