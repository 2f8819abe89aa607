"""The run folder: identity, lock, markers, and its files at every moment."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import fingerprint
from pipeline.config.secrets import is_secret, masked, without_secrets
from pipeline.runs import provenance as provenances
from pipeline.runs.folder import RunBusy, RunDir
from pipeline.runs.provenance import (
    code_versions,
    git_state,
    machine,
    other_code,
    plugin_digests,
    provenance,
)


def config(**changes: object) -> dict[str, object]:
    """A small configuration."""
    return {
        "name": "demo",
        "seed": 0,
        "edits": 4,
        "batch_size": 2,
        "model": {"name": "tiny"},
        "editor": {"name": "memit", "norm_weight": 10.0, "steps": 20},
        "data": {"name": "world"},
        "intervention": {"name": "knowledge_edit"},
        "tracker": {"mode": "offline"},
    } | changes


def test_the_fingerprint_ignores_what_does_not_change_numbers() -> None:
    same = config(tracker={"mode": "online"}, launcher={"name": "slurm"}, resume="force", name="other")
    assert fingerprint(config()) == fingerprint(same)
    assert fingerprint(config()) == fingerprint(dict(reversed(config().items())))
    whole = config(editor={"name": "memit", "norm_weight": 10, "steps": 20})
    assert fingerprint(config()) == fingerprint(whole)
    assert len(fingerprint(config())) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"edits": 5},
        {"editor": {"name": "rome"}},
        {"layers": {"edit": [1]}},
        {"batch_size": True},
    ],
)
def test_the_fingerprint_follows_what_changes_numbers(change: dict[str, object]) -> None:
    assert fingerprint(config()) != fingerprint(config(**change))


def test_a_class_that_moves_keeps_the_fingerprint() -> None:
    before, after, other = (
        config(editor={"name": "mine", "moments": {"_target_": target}})
        for target in ("scratch.editors.Mine", "scratch.methods.mine.Mine", "scratch.methods.mine.Yours")
    )
    assert fingerprint(before) == fingerprint(after) != fingerprint(other)


def test_a_finished_run_leaves_every_file_and_its_objective(tmp_path: Path) -> None:
    with RunDir(root=tmp_path, config=config()) as run:
        assert not run.done
        run.append({"step": 0, "edits": 0, "norm/frobenius_ratio/edited": 1.0, "time/step/seconds": 2})
        run.append({"step": 1, "edits": 2, "norm/frobenius_ratio/edited": torch.tensor(1.5).item()})
        run.record("records", [{"id": "a", "success": True}])
        run.record("edits", [{"edit": 1, "target_norm": 2.5}])
        run.record("records", [{"id": "b", "success": False}])
        run.finish(objective=0.75, edits=2, statistics="100 tokens of a text")
    assert run.folder == tmp_path / "demo" / f"memit-s0-{fingerprint(config())}"
    assert {path.name for path in run.folder.iterdir()} - {".lock"} == {
        "config.yaml", "provenance.json", "metrics.jsonl", "records.parquet", "edits.parquet",
        "summary.json", "DONE",
    }  # fmt: skip
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == config()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["metrics"] == {"norm/frobenius_ratio/edited": 1.5, "time/step/seconds": 2.0}
    expected = {
        "run": run.info.fingerprint,
        "name": "demo",
        "editor": "memit",
        "model": "tiny",
        "data": "world",
    }
    expected |= {"intervention": "knowledge_edit", "seed": 0, "edits": 2, "batch_size": 2, "objective": 0.75}
    expected |= {"statistics": "100 tokens of a text"}
    assert {key: summary[key] for key in expected} == expected
    assert set(summary) == {*expected, "seconds", "metrics"}
    records = pd.read_parquet(run.folder / "records.parquet")
    assert records.to_dict("list") == {"id": ["a", "b"], "success": [True, False]}
    with RunDir(root=tmp_path, config=config(tracker={})) as again:
        assert again.done
        assert RunFolder(again.folder).final_summary()["objective"] == 0.75


def test_a_row_of_any_numbers_is_on_the_disk_at_once(tmp_path: Path) -> None:
    with RunDir(root=tmp_path, config=config()) as run:
        run.append({"step": 0, "edits": 0, "norm/delta/mlp_down.01": float("inf")})
        run.append({"step": 1, "edits": 2, "norm/delta/mlp_down.01": torch.tensor(2.0)})  # pyright: ignore
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert math.isinf(rows[0]["norm/delta/mlp_down.01"])
    assert rows[1] == {"step": 1, "edits": 2, "norm/delta/mlp_down.01": 2.0}


def test_a_checkpoint_holds_the_matrices_by_site(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).view(2, 3).T  # as Conv1D's transposed view, not contiguous
    with RunDir(root=tmp_path, config=config()) as run:
        path = run.checkpoint("edits-000012", {"mlp_down.01": matrix})
        assert path == run.folder / "checkpoints" / "edits-000012.safetensors"
        assert torch.equal(load_file(path)["mlp_down.01"], matrix)
        assert list(path.parent.iterdir()) == [path]


def test_a_failed_run_is_marked_keeps_its_records_and_starts_again(tmp_path: Path) -> None:
    with pytest.raises(DataError), RunDir(root=tmp_path, config=config()) as run:
        run.append({"step": 0, "edits": 0})
        run.record("records", [{"id": "a"}])
        (run.folder / "wandb").mkdir()
        run.checkpoint(3, {"mlp_down.01": torch.eye(2)})
        raise DataError("the third fact is odd: leave it out")
    failed = (run.folder / "FAILED").read_text()
    assert failed.splitlines()[0] == "the third fact is odd: leave it out"
    assert "Traceback" in failed
    assert len(pd.read_parquet(run.folder / "records.parquet")) == 1
    assert not run.done
    with RunDir(root=tmp_path, config=config()) as again:
        names = {path.name for path in again.folder.iterdir()}
        assert names == {".lock", "config.yaml", "provenance.json", "progress.json"}


def test_an_unforeseen_error_is_named_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDir(root=tmp_path, config=config()) as run:
        _ = 1 / 0
    assert (run.folder / "FAILED").read_text().startswith("ZeroDivisionError: division by zero\n")


def test_an_error_while_reading_a_finished_run_leaves_it_finished(tmp_path: Path) -> None:
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=None)
    (run.folder / "summary.json").write_text("{")
    with (
        pytest.raises(DataError, match=r"summary\.json has 1 bytes"),
        RunDir(root=tmp_path, config=config()) as again,
    ):
        RunFolder(again.folder).final_summary()
    assert run.done
    assert not (run.folder / "FAILED").exists()


def test_a_second_identical_job_ends_with_one_sentence(tmp_path: Path) -> None:
    code = (
        "import json, pathlib, sys\n"
        "from pipeline.runs.folder import RunBusy, RunDir\n"
        "try:\n"
        "    RunDir(root=pathlib.Path(sys.argv[1]), config=json.loads(sys.argv[2])).__enter__()\n"
        "except RunBusy as error:\n"
        "    sys.exit(f'busy: {error}')\n"
    )
    job = [sys.executable, "-c", code, str(tmp_path), json.dumps(config())]
    with RunDir(root=tmp_path, config=config()) as run:
        run.append({"step": 0, "edits": 0})
        with pytest.raises(RunBusy, match="being computed by another"):
            RunDir(root=tmp_path, config=config()).__enter__()
        second = subprocess.run(job, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert second.stderr.startswith("busy: the same run is being computed")
        assert (run.folder / "metrics.jsonl").exists()
        with RunDir(root=tmp_path, config=config(seed=1)) as other:
            assert other.folder != run.folder
    with RunDir(root=tmp_path, config=config()) as unlocked:
        assert not unlocked.done


def test_a_folder_that_cannot_be_written_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        RunDir(root=tmp_path / "outputs", config=config()),
    ):
        pass


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\nb", None])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str | None) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        RunDir(root=tmp_path, config=config(name=name))


def test_provenance_holds_the_origin_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "do-not-write-me")
    monkeypatch.setattr(sys, "argv", ["normscope", "seed=1", "+tracker.api_key=do-not-write-me", "tokens=3"])
    with RunDir(root=tmp_path, config=config()) as run:
        text = (run.folder / "provenance.json").read_text()
    origin = json.loads(text)
    assert "do-not-write-me" not in text
    keys = {"started", "command", "repeat", "overrides", "git", "python", "packages", "platform", "host"}
    keys |= {"inputs", "earlier", "machine", "model", "plugins", "sources"}
    assert keys == set(origin)
    assert {"torch", "transformers", "hydra-core", "wandb", "numpy"} <= set(origin["packages"])
    assert "seed=1" in origin["command"]
    assert without_secrets(["a.hf_token=1", "tokenizer=x"]) == ["a.hf_token=***", "tokenizer=x"]


def test_provenance_names_everything_that_affects_rounding() -> None:
    """Two runs whose last bits differ were computed on machines that differ in one of these entries."""
    entries = machine()
    assert entries["processor"] and entries["threads"] == torch.get_num_threads()
    assert entries["vectors"] == torch.backends.cpu.get_cpu_capability()
    libraries = entries["libraries"]
    assert isinstance(libraries, list) and any("openmp" in line or "blas" in line for line in libraries)
    assert json.loads(json.dumps(entries)) == entries


def test_a_plugin_is_identified_by_a_digest_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_a").mkdir()
    (tmp_path / "plugin_a" / "__init__.py").write_text("x = 1\n")
    (tmp_path / "plugin_b.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    digests = plugin_digests(["plugin_b", "plugin_a"])
    assert list(digests) == ["plugin_a", "plugin_b"] and all(len(text) == 10 for text in digests.values())
    assert provenance(["plugin_a"])["plugins"] == {"plugin_a": digests["plugin_a"]}


def test_other_code_is_what_has_changed_since_the_run_recorded_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of which it recorded nothing, as older runs did, and code that is absent now are left out."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plugin_c", "plugin_d"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    plugins = ["plugin_c", "plugin_d", "no_such.module"]
    now, own = plugin_digests(plugins), code_versions()["sources"]
    assert now["no_such.module"] == ""
    for recorded, others in (
        ({}, []),
        ({"sources": own, "plugins": now}, []),
        ({"sources": own, "plugins": {**now, "plugin_d": "0", "plugin_e": "0"}}, ["plugin_d"]),
        ({"sources": "0", "plugins": {"plugin_c": "0", "no_such.module": "0"}}, ["normscope", "plugin_c"]),
    ):
        (tmp_path / "provenance.json").write_text(json.dumps(recorded))
        assert other_code(tmp_path, plugins) == others


def test_the_digest_of_our_sources_leaves_out_what_only_reads_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("editors/a.py", "analysis/stages/b.py", "pipeline/c.py", "analysis/reports/d.py")
    monkeypatch.setattr(provenances, "ROOT", tmp_path)
    digests = []
    for changed in (None, *files):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"x = {name == changed}\n")
        digests.append(code_versions.__wrapped__()["sources"])
    before, *after = digests
    assert [digest != before for digest in after] == [True, True, True, False]


def test_changes_in_docs_are_not_changes_of_the_code(tmp_path: Path) -> None:
    def run_git(*arguments: str) -> None:
        person = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *person, *arguments], check=True, capture_output=True)

    for name in ("pipeline/__main__.py", "docs/results.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("before")
    for arguments in (("init",), ("add", "."), ("commit", "-m", "first")):
        run_git(*arguments)
    for name, dirty in (("docs/results.md", False), ("pipeline/__main__.py", True)):
        (tmp_path / name).write_text("after")
        state = git_state(tmp_path / "pipeline")
        assert state is not None and state["dirty"] is dirty


SECRET_NAMES = (
    "api_key", "apikey", "apiKey", "WANDB_API_KEY", "HF_TOKEN", "hf_token", "token", "TOKEN", "openai_key",
    "OPENAI_KEY_2", "AWS_ACCESS_KEY_ID", "aws_secret_access_key", "password", "db_passwd", "client_secret",
    "KEY", "a.b.hf_token", "+a.openai_key",
)  # fmt: skip
PLAIN_NAMES = (
    "tokenizer", "tokens", "text.tokens", "max_tokens", "tokens_per_width", "keys", "key", "key_mode",
    "longest_key", "keyword", "monkey", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYS", "last_token",
)  # fmt: skip


def test_secrets_are_recognised_by_name() -> None:
    assert [name for name in SECRET_NAMES if not is_secret(name)] == []
    assert [name for name in PLAIN_NAMES if is_secret(name)] == []


@pytest.mark.parametrize(
    ("override", "blanked"),
    [
        ('setup=["export WANDB_API_KEY=abc","make x=1"]', 'setup=["export WANDB_API_KEY=***","make x=1"]'),
        ("+env={HF_TOKEN: abc, LANG: C}", "+env={HF_TOKEN: ***, LANG: C}"),
        ("+env={HF_TOKEN:abc,LANG:C}", "+env={HF_TOKEN:***,LANG:C}"),
        ('+env={"HF_TOKEN": "a, b}", "LANG": "C"}', '+env={"HF_TOKEN": "***", "LANG": "C"}'),
        (r'x="{\"HF_TOKEN\": \"a b\"} y"', r'x="{\"HF_TOKEN\": \"***\"} y"'),
        ("+a.openai_key=abc,def", "+a.openai_key=***"),
        ("a=[export PASSWORD=a]b,d] c", "a=[export PASSWORD=***] c"),
        ("a=B_KEY=abc c", "a=B_KEY=*** c"),
        ("url=https://user:p@w@host:80/x?token=abc&y=1", "url=https://***@host:80/x?token=***&y=1"),
        ("a=[B_KEY='abc d", "a=[B_KEY='***'"),
        ("data.tokens=3", "data.tokens=3"),
        ("+a={key_mode: rome, keys: [before], tokens: 4}", "+a={key_mode: rome, keys: [before], tokens: 4}"),
        ("url=https://host/a@b", "url=https://host/a@b"),
    ],
)
def test_a_secret_inside_a_value_is_blanked_and_the_rest_stays(override: str, blanked: str) -> None:
    assert without_secrets([override]) == [blanked]
    assert without_secrets([blanked]) == [blanked]


def test_a_configuration_is_written_unchanged_but_for_its_secrets(tmp_path: Path) -> None:
    plain = {"text": {"tokens": 3}, "keys": "before", "key_mode": "rome", "tokenizer": "t", "api_key": None}
    hidden = {
        "openai_key": "do-not-write-me",
        "launcher": {"setup": ["export HF_TOKEN=do-not-write-me"], "env": {"HF_TOKEN": "do-not-write-me"}},
        "data": {"path": "https://user:do-not-write-me@host/x"},
    }
    assert masked(plain) == plain
    with RunDir(root=tmp_path, config=config(**plain, **hidden)) as run:
        text = (run.folder / "config.yaml").read_text()
    assert "do-not-write-me" not in text
    written = yaml.safe_load(text)
    assert {key: written[key] for key in plain} == plain
    assert written["launcher"]["setup"] == ["export HF_TOKEN=***"]
