"""The commands that only look: at confs, at what a conf can say, at a net. Added to the command line by ``cli``."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cnnjob.errors import UserError
from pipelines.command import Debug, Json, Sets, Tracking, place_of, run_command, tracking_of
from pipelines.console import Console

app = typer.Typer()

PNG = "feature_maps.png"
MAX_SIDE = 4096
"""As of a prepare conf: ``image.height`` and ``image.width``."""
MAX_CLASSES = 1_000_000
MAX_TOLD = 40
"""Characters of a wrong value that a message repeats."""
Confs = Annotated[list[Path], typer.Argument(metavar="CONF", help="YAML files.", show_default=False)]


class SchemaKind(StrEnum):
    """The kinds of config."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    NIGHTLY = "nightly"
    CLUSTER = "cluster"


KINDS = ", ".join(SchemaKind)


@app.command()
def check(
    confs: Confs,
    kind: Annotated[
        SchemaKind | None,
        typer.Option(
            metavar="KIND",
            help=f"What the files are: {KINDS}. Default: the name of a file's folder, else what its keys fit.",
        ),
    ] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check confs without a cluster, and tell all mistakes.

    Those of all files are reported together.
    """

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        problems, valid = [], []
        for conf in confs:
            try:
                name = kind.value if kind else kinds.kind_of(conf)
                kinds.load(name, conf, sets or ())
                valid.append({"conf": str(conf), "kind": name})
                console.say(f"{conf}: valid {name} config")
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        return {"valid": valid}

    run_command(job, as_json=json, debug=debug)


@app.command()
def schema(
    kind: Annotated[SchemaKind, typer.Argument(metavar="KIND", help="Which conf.", show_default=False)],
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a conf with every key, its default and what it means, for people.")
    ] = False,
) -> None:
    """Print the JSON Schema of a conf, or all of its keys.

    The schema is for editors; with --yaml there are all keys, for people.
    """

    def job(console: Console) -> None:
        from cnnjob.config import kinds

        model = kinds.kind(kind.value).model
        if as_yaml:
            from cnnjob.config.template import template

            console.say(template(model).removesuffix("\n"))
        else:
            import json

            console.say(json.dumps(model.model_json_schema(), indent=1))

    run_command(job, as_json=False, debug=False)


@app.command()
def trace(
    conf: Annotated[
        Path | None, typer.Option("--config", metavar="CONF", help="Take the net from a train conf.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Take a preset: default, simple, net or cnn64.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Take a registered model, such as models:/NAME@champion.")
    ] = None,
    tracking: Tracking = "tracking",
    shape: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="Channels x height x width of an image, such as 3x32x32.")
    ] = None,
    classes: Annotated[int | None, typer.Option(metavar="N", help="Number of classes.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Run one picture, and show what each layer makes of it.")
    ] = None,
    png: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=f"Where the picture's maps are drawn. Default: {PNG}."),
    ] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a net stage by stage, and what a picture becomes.

    Of each stage its shapes, parameters and work; with --image, a picture on its way through it. With --config the
    images are those of the conf's data set, where it is prepared.
    """

    def job(console: Console) -> object:
        from pipelines import trace as trace_job

        if sum(given is not None for given in (conf, preset, model)) > 1:
            raise UserError("--config, --preset and --model each name a net; give one of them")
        if sets and conf is None:
            raise UserError("--set overrides keys of a train conf; give the conf with --config")
        if png is not None and image is None:
            raise UserError("--png is where the picture of --image is drawn; give --image")
        if model is not None:
            if shape is not None or classes is not None:
                raise UserError("a registered model has its own shape and classes; leave --shape and --classes out")
            net, bundle = trace_job.of_model(model, tracking_of(tracking))
        else:
            net, bundle = _net(conf, preset, sets or (), shape, classes, console), None
        result = trace_job.run(
            net,
            image=None if image is None else place_of("--image", image, "the path or URI of a picture"),
            bundle=bundle,
            png=place_of("--png", PNG if png is None else png, "the path of a file"),
            console=console,
        )
        trace_job.show(result, console)
        return result

    run_command(job, as_json=json, debug=debug)


def _net(
    conf: Path | None,
    preset: str | None,
    sets: Sequence[str],
    shape: str | None,
    classes: int | None,
    console: Console,
) -> Any:
    """The net of a conf or a preset, on images as given, else as its data set has them or it is usually drawn with."""
    from cnnjob.config import kinds
    from cnnjob.config.load import load_config
    from cnnjob.config.train import ModelConfig
    from cnnjob.models.presets import PRESETS, net_for

    given = None if shape is None else _shape(shape)
    if classes is not None and not 2 <= classes <= MAX_CLASSES:  # noqa: PLR2004 - one is nothing to classify
        raise UserError(f"--classes {_told(str(classes))} should be from 2 to {MAX_CLASSES:,}")
    if conf:
        from pipelines import trace as trace_job

        return trace_job.of_conf(kinds.load("train", conf, sets), given, classes, console)
    name = "default" if preset is None else preset
    model = load_config(ModelConfig, {"preset": name}, where="--preset")
    return net_for(model, given or PRESETS[name].shape, PRESETS[name].num_classes if classes is None else classes)


def _shape(text: str) -> tuple[int, int, int]:
    found = re.fullmatch("([0-9]{1,4})x([0-9]{1,4})x([0-9]{1,4})", text.lower())
    sizes = cast("tuple[int, int, int]", tuple(int(size) for size in found.groups())) if found else (0, 0, 0)
    if not 1 <= min(sizes) <= max(sizes) <= MAX_SIDE:
        raise UserError(
            f"--shape {_told(text)!r} should be CHANNELSxHEIGHTxWIDTH, each from 1 to {MAX_SIDE:,}, such as 3x32x32"
        )
    return sizes


def _told(text: str) -> str:
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."
