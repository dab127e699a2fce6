"""Whole commands, as users and scripts run them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Command
from tests.line import DATE, Line

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def documented() -> list[str]:
    """The commands in the README's sh blocks, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user with a home folder of their own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PATH": path, "HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def test_every_command_of_the_readme_runs(shared_ray: str, tmp_path: Path) -> None:
    """The README's commands, extracted from it and run in order in a fresh folder, all end with 0."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    commands = documented()
    assert {shlex.split(command)[1] for command in commands} >= {"prepare", "train", "score", "submit", "up", "down"}
    joined = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    for command in commands:
        words = shlex.split(command)
        on_head = words[1] in ("up", "down", "submit", "jobs")
        extra = {} if on_head else {**joined, "RAY_ADDRESS": shared_ray}
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *words[1:]],
            cwd=tmp_path,
            env=environment(tmp_path, **extra),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if done.returncode and words[1] == "submit":
            subprocess.run([sys.executable, "-m", "pipelines", "down"], env=environment(tmp_path), check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_python_of_the_readme_runs(line: Line, tmp_path: Path) -> None:
    """The README's Python example runs on the demo's table."""
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    (tmp_path / "work").symlink_to(line.folder)
    subprocess.run(
        [sys.executable, "-c", block[1]], cwd=tmp_path, env=environment(tmp_path), check=True, capture_output=True
    )


def test_json_is_alone_on_standard_output(cnnjob_on_ray: Command, tmp_path: Path) -> None:
    """With --json, standard output is one object, whatever workers print; a second run creates nothing."""
    conf = str(ROOT / "conf/prepare/digits.yaml")
    first = cnnjob_on_ray("prepare", conf, "--set", f"output={tmp_path / 'digits'}", "--json")
    assert first.json["created"] is True
    assert sum(first.json["rows"].values()) == 1797
    second = cnnjob_on_ray("prepare", conf, "--set", f"output={tmp_path / 'digits'}", "--json")
    assert second.json == {**first.json, "created": False, "rows_per_s": 0.0}


def test_an_unknown_model_is_a_users_mistake(line: Line, cnnjob_on_ray: Command, tmp_path: Path) -> None:
    """Scoring with a model that is not registered: exit code 2, what there is, no table."""
    sets = [
        *("--set", f"input.uri={line.result.dataset}", "--set", f"output={tmp_path / 'scores'}"),
        *("--set", f"tracking.uri={line.folder / 'tracking'}", "--set", "model=models:/nobody@champion"),
    ]
    ended = cnnjob_on_ray("score", str(ROOT / "conf/score/digits.yaml"), "--date", "2026-01-31", *sets)
    assert ended.code == 2
    assert "digits (@" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_runs_the_demo_outside_the_checkout(line: Line, tmp_path: Path) -> None:
    """The line's demo ran from the wheel, which has its confs inside, and scored its date."""
    code = "import pipelines.confs as c; print(c.shipped('train/digits.yaml'))"
    env = {**environment(tmp_path), "PYTHONPATH": str(line.site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    conf = Path(done.stdout.strip())
    assert conf.is_file()
    assert conf.is_relative_to(line.site)
    assert Path(line.result.scores, f"date={DATE}").is_dir()


def test_the_ui_command_opens_mlflow_on_the_run(line: Line, tmp_path: Path) -> None:
    """The command that the demo prints starts an MLflow UI that knows the run."""
    command = line.result.ui_command.replace("--port 5000", "--port 5057")
    with (tmp_path / "ui.log").open("w") as log:
        process = subprocess.Popen(
            shlex.split(command),
            stdout=log,
            stderr=log,
            env=environment(tmp_path),
            start_new_session=True,
        )
    url = "http://127.0.0.1:5057/ajax-api/2.0/mlflow/registered-models/search"
    try:
        answer = ""
        deadline = time.monotonic() + 90
        while not answer and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    answer = response.read().decode()
            except OSError:
                time.sleep(0.5)
        assert '"digits"' in answer, (tmp_path / "ui.log").read_text()
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)
