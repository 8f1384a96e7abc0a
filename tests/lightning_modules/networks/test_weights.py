"""Weights from URLs, files and checkpoints: what is taken over, what is adapted, what is refused."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.networks import load_weights, resnet10, resnet18


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a small RGB network with 4 classes."""
    torch.manual_seed(1)
    path = tmp_path / "weights.pth"
    torch.save(resnet10(4, width=8).state_dict(), path)
    return path


@pytest.fixture
def server(file: Path) -> Iterator[str]:
    """Serves the file's bytes at any address; half of them under /short."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if "short" in self.path else content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def states_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def wrap(state: dict[str, Tensor], form: str) -> dict[str, Any]:
    return {
        "plain": lambda: state,
        "wrapped": lambda: {"state_dict": state, "epoch": 3},
        "parallel": lambda: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        "lightning": lambda: {
            "state_dict": {f"network.{name}": value for name, value in state.items()} | {"other.weight": torch.ones(1)},
            "pytorch-lightning_version": "2.6.6",
        },
    }[form]()


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel", "lightning"])
def test_every_form_of_file_loads(file: Path, form: str) -> None:
    state = torch.load(file)
    torch.save(wrap(state, form), file)
    network = resnet10(4, width=8)
    report = load_weights(network, str(file), sha256=digest(file))
    assert report.exact
    assert states_equal(network.state_dict(), state)


def test_the_networks_take_weights(file: Path) -> None:
    network = resnet10(4, width=8, weights=str(file))
    assert states_equal(network.state_dict(), torch.load(file))


def test_other_channels_and_classes_are_fitted_and_reported(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = torch.load(file)
    network = resnet10(9, 2, width=8, input_norm=True)
    fc = network.fc.weight.clone()
    with caplog.at_level(logging.WARNING):
        report = load_weights(network, str(file))
    mean = (state["conv1.weight"][:, 0] + state["conv1.weight"][:, 1] + state["conv1.weight"][:, 2]) / 3
    torch.testing.assert_close(network.conv1.weight[:, 0], mean)
    torch.testing.assert_close(network.conv1.weight[:, 1], mean)
    assert torch.equal(network.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
    assert torch.equal(network.fc.weight, fc)
    assert report.adapted == ["conv1.weight"]
    assert report.mismatched == ["fc.weight (4, 64) -> (9, 64)", "fc.bias (4,) -> (9,)"]
    assert report.missing == [f"input_bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    assert "mismatched (2): fc.weight (4, 64) -> (9, 64)" in caplog.text


def test_only_rgb_convolutions_are_adapted(tmp_path: Path) -> None:
    path = tmp_path / "mv.pth"
    torch.save(resnet10(4, 2, width=8).state_dict(), path)
    report = load_weights(resnet10(4, 5, width=8), str(path))
    assert report.adapted == []
    assert report.mismatched == ["conv1.weight (8, 2, 7, 7) -> (8, 5, 7, 7)"]


def test_unexpected_entries_are_reported(file: Path) -> None:
    torch.save(torch.load(file) | {"head.weight": torch.ones(1)}, file)
    assert load_weights(resnet10(4, width=8), str(file)).unexpected == ["head.weight"]


def test_weights_older_than_batch_counts_load_exactly(file: Path) -> None:
    state = {name: value for name, value in torch.load(file).items() if "num_batches" not in name}
    torch.save(state, file)
    assert load_weights(resnet10(4, width=8), str(file)).exact


def test_nothing_in_common_is_an_error_that_names_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.ones(2), "encoder.bias": torch.ones(2), "head": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"none of its 3 entries fits .* came encoder\. \(2\), head \(1\)"):
        load_weights(resnet10(4, width=8), str(path))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"`weights`: no such file: /nowhere/at_all\.pth"):
        resnet18(4, weights="/nowhere/at_all.pth")


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Path}, path)
    with pytest.raises(
        ValueError, match=r"evil\.pth: expected weights saved by PyTorch, came a file that .*holds code"
    ):
        load_weights(resnet10(4, width=8), str(path))


@pytest.mark.parametrize("content", [b"", b"model: resnet\n", b"PK\3\4", b"\x80\x02}."], ids=repr)
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth: expected"):
        load_weights(resnet10(4, width=8), str(path))


def test_a_truncated_file_is_named(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="expected weights saved by PyTorch, came a file that is damaged"):
        load_weights(resnet10(4, width=8), str(file))


def test_downloads_once_and_checks_the_digest(server: str, file: Path, cache: Path) -> None:
    state, sha256 = torch.load(file), digest(file)
    first = resnet10(4, width=8, weights=f"{server}/model.pth", sha256=sha256)
    file.write_bytes(b"gone")
    second = resnet10(4, width=8, weights=f"{server}/model.pth", sha256=sha256)
    assert states_equal(first.state_dict(), state)
    assert states_equal(second.state_dict(), state)
    assert [path.name[9:] for path in cache.iterdir()] == ["model.pth"]


def test_file_addresses_download_too(file: Path) -> None:
    assert load_weights(resnet10(4, width=8), file.as_uri(), sha256=digest(file)).exact


@pytest.mark.parametrize("address", ["short/model.pth", "model.pth"])
def test_a_broken_or_wrong_download_leaves_nothing(server: str, cache: Path, address: str) -> None:
    sha256 = None if "short" in address else "0" * 64
    with pytest.raises((OSError, ValueError), match=f"{address}.* expected .*came"):
        load_weights(resnet10(4, width=8), f"{server}/{address}", sha256=sha256)
    assert list(cache.iterdir()) == []


def test_an_unreachable_address_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot download http://127\.0\.0\.1:9/model\.pth"):
        load_weights(resnet10(4, width=8), "http://127.0.0.1:9/model.pth")


def test_a_wrong_file_digest_is_an_error(file: Path) -> None:
    with pytest.raises(ValueError, match=f"expected `sha256` {'0' * 64}, came {digest(file)}"):
        load_weights(resnet10(4, width=8), str(file), sha256="0" * 64)
