"""Exports the final model of a run as a Hugging Face folder: `python -m pipeline export RUN out=DIR`.

The folder is read by `AutoModelForCausalLM.from_pretrained(DIR)`, vLLM, lm-eval and `python -m pipeline
model=hf model.path=DIR`. The run must have kept its weights (`keep_weights=true`) or its updates
(`intervention.keep_updates=true`), from which single edits can be taken back: `undo=ID,…` or `edits=N`, which
keeps the first N (`python -m pipeline ledger RUN` lists them). `push=USER/NAME` also sends the folder to the
hub, into a new private repository. If the model is from a plug-in, the command has to name the plug-in,
`plugins=my_module`: the plug-ins of the run's configuration are not imported.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from safetensors import SafetensorError

from analysis.results.run_folder import RunFolder
from analysis.selection import RUN, selected_one
from editors.errors import DataError, ModelError, NormscopeError, first_line
from editors.models.model import Model
from editors.text_files import local_path
from pipeline.build import build_model
from pipeline.checkpoints.kept_weights import NOTHING, Undo, kept_changes
from pipeline.commands.exports.card import card
from pipeline.commands.exports.hub import check_destination, push
from pipeline.paths import out_path
from pipeline.runs.input_digests import check_inputs, recorded_inputs
from pipeline.runs.layout import finished_run, warn_if_unverifiable


def main(arguments: Sequence[str]) -> str | int:
    """Export the run of the command line; returns an exit status, or the message of an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help=f"{RUN}, finished")
    parser.add_argument(
        "out",
        type=partial(out_path, form="DIR, the folder to write"),
        metavar="out=DIR",
        help="a folder that is empty or does not exist",
    )
    parser.add_argument("settings", type=_setting, nargs="*", metavar="key=value",
                        help="plugins=MODULE,… are modules with classes of the run's model that you trust; "
                        "undo=ID,… takes the edits of facts back; edits=N keeps only the first; "
                        "push=USER/NAME sends the folder to the hub")  # fmt: skip
    options = parser.parse_args(arguments)
    chosen = dict(options.settings)
    undo = Undo(facts=chosen.get("undo", ()), edits=int(chosen["edits"][0]) if "edits" in chosen else None)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        for repository in chosen.get("push", ()):
            check_destination(repository)
        print(export(selected_one(options.run), options.out, chosen.get("plugins", ()), undo))  # noqa: T201 - for scripts
        for repository in chosen.get("push", ()):
            print(f"{push(options.out, repository)} (private)")  # noqa: T201
    except NormscopeError as error:
        return f"error: {error}"
    except (OSError, SafetensorError) as error:
        name = getattr(error, "filename", None) or options.out
        return f"error: {name} cannot be written ({getattr(error, 'strerror', None) or first_line(error)})"
    return 0


def export(run: Path, out: Path, plugins: Sequence[str] = (), undo: Undo = NOTHING) -> Path:
    """Write the final model of a run into `out`, completely or not at all; returns `out`.

    `plugins` are modules outside of this project whose classes the model may use; `undo` takes edits back.

    Raises:
        DataError: if the folder is no finished run with weights, `out` is not empty, or an edit cannot be
            taken back.
        ConfigError: if the run's configuration or the files of its initial model have changed.
        ModelError: if the initial model cannot be loaded.
    """
    run = finished_run(run)
    warn_if_unverifiable(run)
    target = _target(out, run)
    readme = card(RunFolder(run), undo)
    model = edited_model(run, plugins, undo)
    _make_writable(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that it can be renamed; another name than that of any folder there
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
        part = Path(made, target.name)
        part.mkdir()  # with the user's permissions; the temporary folder is private
        model.hf.save_pretrained(part)
        model.tokenizer.save_pretrained(part)
        (part / "README.md").write_text(readme, encoding="utf-8")
        for file in part.iterdir():  # safetensors writes files that nobody else can read
            file.chmod((part / "README.md").stat().st_mode)
        part.replace(target)
    return out


def _target(out: Path, run: Path) -> Path:
    """The absolute path of the folder to write; raises DataError if a model must not be written there."""
    target = local_path(str(out)).resolve()
    if target.exists() and not target.is_dir():
        raise DataError(f"out={out} is a file: name a folder that is empty or does not exist")
    if target.exists() and any(target.iterdir()):
        raise DataError(f"out={out} is not empty: name a folder that is empty or does not exist")
    if target == Path.cwd():
        raise DataError(f"out={out} is the folder in which the command runs: name one inside or beside it")
    if target.is_relative_to(run.resolve()):
        raise DataError(f"out={out} is inside the run: name a folder outside of it")
    return target


def edited_model(run: Path, plugins: Sequence[str] = (), undo: Undo = NOTHING) -> Model:
    """The final model of a run, on the CPU, in the precision of the run.

    Raises:
        DataError: if the run kept no weights, or an edit cannot be taken back.
        ConfigError: if the files of its initial model have changed since.
        ModelError: if the initial model cannot be loaded.
    """
    change = kept_changes(run, undo)
    config = RunFolder(run).config()
    checkpoint = replace(build_model(config, plugins), device="cpu", device_map=None, bits=None)
    own = (checkpoint.path, checkpoint.gguf)
    check_inputs(run, {path: digest for path, digest in recorded_inputs(run).items() if path in own})
    try:
        model = checkpoint.load()
    except ModelError as error:
        raise ModelError(f"the initial model of {run} cannot be loaded: {error}") from error
    change(model)
    return model


def _make_writable(model: Model) -> None:
    """Enable sampling if the generation settings are refused: some checkpoints set only a temperature."""
    generation = model.hf.generation_config
    try:
        if generation is not None:
            generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True


def _setting(text: str) -> tuple[str, tuple[str, ...]]:
    key, sign, values = text.partition("=")
    chosen = tuple(value.strip() for value in values.strip("[]").split(",") if value.strip())
    if key not in ("plugins", "undo", "edits", "push") or not sign:
        raise argparse.ArgumentTypeError(
            f"{text!r} has to be plugins=MODULE,…, undo=ID,…, edits=N or push=USER/NAME"
        )
    if key == "edits" and not (len(chosen) == 1 and chosen[0].isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} has to be a number of edits")
    if key == "push" and len(chosen) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} has to name one repository, USER/NAME")
    return key, chosen
