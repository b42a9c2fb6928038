"""What tests of the configuration share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from incomingd.config import ConfigError, Loaded, Problem, load

LoadFile = Callable[..., Loaded]
Mistakes = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def load_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadFile:
    """Load a configuration from the text of a file, options and variables; the machine's own file does not count.

    The working directory is a fresh one, and the file is called `c.yaml` there.
    """
    monkeypatch.chdir(tmp_path)

    def loaded(text: str | bytes | None = None, *options: str, environ: Mapping[str, str] | None = None) -> Loaded:
        argv = list(options)
        if text is not None:
            content = text if isinstance(text, bytes) else text.encode()
            Path("c.yaml").write_bytes(content)
            Path("c.yaml").chmod(0o600)
            argv = ["--config", "c.yaml", *argv]
        return load(argv, environ or {}, default_file=tmp_path / "none.yaml")

    return loaded


@pytest.fixture
def mistakes(load_file: LoadFile) -> Mistakes:
    """Load as `load_file` and give the problems; fails where there are none."""

    def found(
        text: str | bytes | None = None, *options: str, environ: Mapping[str, str] | None = None
    ) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as refused:
            load_file(text, *options, environ=environ)
        return refused.value.problems

    return found


def openssl(command: str) -> None:
    subprocess.run(["openssl", *command.split()], check=True, capture_output=True)


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files: `cert` with its `key`, a key that is not its own, and one with a pass phrase."""
    folder = tmp_path_factory.mktemp("tls")
    curve = "-pkeyopt ec_paramgen_curve:prime256v1"
    openssl(f"req -x509 -newkey ec {curve} -nodes -subj /CN=localhost -keyout {folder}/key -out {folder}/cert")
    openssl(f"genpkey -algorithm EC {curve} -out {folder}/other")
    openssl(f"genpkey -algorithm EC {curve} -aes256 -pass pass:secret -out {folder}/locked")
    return {name: folder / name for name in ("cert", "key", "other", "locked", "nowhere")}
