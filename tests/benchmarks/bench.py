"""The product beside its peers and its roofs: `make bench`, or `make bench-quick` for a rough look.

Each case is a whole command in a process of its own. Cases of a section take turns, round after round, so that what
else the machine does hits all alike; a ratio is formed within a round, and told as the median of the rounds with half
of the distance between the largest and the smallest. A ratio fails where it misses its bar by more than that. Writes a
table, and ``bench.json`` beside the data. Nothing else should run meanwhile.

    python -m tests.benchmarks.bench [--rounds 3] [--quick] [--only train score ...] [--folder work/bench]
"""

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from cnnjob.data.manifest import read_manifest
from tests.benchmarks.material import FILES, Material
from tests.benchmarks.memory import watched
from tests.benchmarks.table import (
    Bar,
    Figures,
    Section,
    difference,
    figure,
    keep,
    least,
    measured,
    over_best,
    ratio,
    ratio_within,
    share_of,
    table_of,
)

FEW = 4_096
"""Rows of a unit where there are few in all: what is measured begins when each process has done one."""

SMALL_GROUP = 64
"""Rows of a row group where they are small: a file's footer is large then."""


class Bench:
    """All sections over one folder of material."""

    def __init__(self, material: Material, *, quick: bool) -> None:
        self.material = material
        self.quick = quick
        self.times = 1 if quick else 10
        self.epochs = 2 if quick else 4

    def section(self, name: str) -> Section:
        """A section by its name."""
        made: Section = getattr(self, f"_{name.replace('-', '_')}")()
        return made

    def _train(self, precision: str = "fp32") -> Section:
        data, epochs = ["--dataset", str(self.material.fashion)], ["--epochs", str(self.epochs)]
        peer = [*data, *epochs, "--precision", precision]
        cases = {
            "product": lambda: self._trained(precision),
            "in memory": lambda: rate_of(peer_run("ddp_in_memory", *peer)),
            "loader": lambda: rate_of(peer_run("ddp_dataloader", *peer)),
            "docs": lambda: rate_of(peer_run("ray_train_docs", *peer)),
            "docs, kept": lambda: rate_of(peer_run("ray_train_docs", *peer, "--materialize")),
            "streamed": lambda: self._trained(precision, cache_bytes_per_worker=self._least_budget()),
            "roof": lambda: {"gflops": run("tests.benchmarks.roofs", "matrix", precision)["rate"]},
        }
        cases = self._few(cases, "product", "in memory", "roof")
        shares = [
            Bar(f"share of the matrix peak: {name}", share_of(name), 0.6 if name == "product" else None)
            for name in cases
            if name != "roof"
        ]
        return Section(
            cases,
            [
                Bar("images/s", lambda f: f["product"]["rate"]),
                Bar("over DDP by hand, in memory", ratio("rate", "product", "in memory"), 1.2),
                Bar("over DDP with a DataLoader", ratio("rate", "product", "loader"), 1.5),
                Bar("over Ray Train as its guide shows", ratio("rate", "product", "docs"), 2.5),
                Bar("over the same, kept", ratio("rate", "product", "docs, kept")),
                Bar("streamed over cached", ratio("rate", "streamed", "product"), 0.7),
                Bar("pause between epochs, s", lambda f: f["product"]["pause_s"], 0.05, at_most=True),
                *shares,
            ],
        )

    def _train_bf16(self) -> Section:
        return self._train("bf16")

    def _feeds(self) -> Section:
        given = {"feeds": self.material.rows(2), "groups of 64": self.material.rows(4, SMALL_GROUP)}
        cases = {name: lambda path=path: run("tests.benchmarks.feeds", str(path)) for name, path in given.items()}

        def bars(name: str) -> list[Bar]:
            return [
                Bar(f"{name}: bytes read by two ranks over the data's", figure(name, "read_share"), 1.1, True),
                Bar(f"{name}: rows over the streaming budget", ratio_within(name, "rows_mb", "budget_mb"), 4),
                Bar(f"{name}: memory over its budget", ratio_within(name, "grown_mb", "budget_mb"), 1, True),
                Bar(f"{name}: streamed rows/s, nothing else done", figure(name, "rows_per_s")),
            ]

        return Section(cases, [bar for name in cases for bar in bars(name)])

    def _start(self) -> Section:
        cases = {"product": lambda: self._trained("bf16", num_epochs=1), "bare": lambda: started("bare_trainer")}
        marks = ("imports", "ray", "mlflow", "workers", "rows", "first_step")
        return Section(
            cases,
            [
                Bar("to the first step beyond a bare trainer, s", difference("first_step", "product", "bare"), 5, True),
                *(Bar(f"product: {mark} at, s", figure("product", mark)) for mark in marks),
                *(
                    Bar(f"bare: {mark} at, s", figure("bare", mark))
                    for mark in ("imports", "ray", "workers", "first_step")
                ),
            ],
        )

    def _score(self) -> Section:
        given, shards = self.material.rows(self.times), self.material.rows(self.times) / "train"
        graph = ["--onnx", str(self.material.graph)]
        packed = {"kind": "dataset", "uri": str(given), "split": "train"}
        few = {**packed, "uri": str(self.material.rows(1))}
        cases = {
            "product": lambda: self._scored(packed),
            # To be looked at costs 3 % of the speed: memory is told of runs of its own.
            "many rows": lambda: self._scored(packed, look_every_s=0.5),
            "few rows": lambda: self._scored(few, look_every_s=0.2),
            "one process": lambda: self._scored(packed, num_processes=1),
            "bare loop": lambda: {"rate": run("tests.benchmarks.roofs", "graph", str(self.material.graph))["rate"]},
            "docs": lambda: self._inferred("--paths", str(shards)),
            "docs, tuned": lambda: self._inferred("--paths", str(shards), "--channels-last"),
            "docs, defaults": lambda: self._inferred("--paths", str(shards), "--map-rows", "1024"),
            "onnx": lambda: self._inferred("--paths", str(shards), "--engine", "onnx", *graph),
            "onnx, defaults": lambda: self._inferred(
                "--paths", str(shards), "--engine", "onnx", *graph, "--map-rows", "1024"
            ),
        }
        # The guide's two settings, of which the better one is the peer: its maps fused, or apart as by default.
        guide, with_onnx = ("docs", "docs, defaults"), ("onnx", "onnx, defaults")
        # A rough look has each at its default.
        cases = self._few(cases, "product", "bare loop", "docs, defaults", "onnx, defaults")
        return Section(
            cases,
            [
                Bar("rows", lambda f: f["product"]["rows"]),
                Bar("images/s, steady", lambda f: f["product"]["steady"]),
                Bar("steady over a bare loop", lambda f: f["product"]["steady"] / f["bare loop"]["rate"], 0.9),
                Bar("steady over the guide's way", over_best("steady", "product", *guide), 8),
                Bar(
                    "wall time over the guide's way",
                    lambda f: least(f, "seconds", *guide) / f["product"]["seconds"],
                    None if self.quick else 6,
                ),
                Bar("steady over the guide's way with ONNX Runtime", over_best("steady", "product", *with_onnx), 4),
                Bar("bare loop over the guide's way", over_best("rate", "bare loop", *guide, below_key="steady")),
                Bar(
                    "bare loop over the same with ONNX Runtime",
                    over_best("rate", "bare loop", *with_onnx, below_key="steady"),
                ),
                Bar("steady over the guide's way, maps fused", ratio("steady", "product", "docs")),
                Bar("steady over the guide's way, maps apart", ratio("steady", "product", "docs, defaults")),
                Bar("steady over the guide's way, channels_last", ratio("steady", "product", "docs, tuned")),
                Bar("verify and publish, share", lambda f: f["product"]["after"] / f["product"]["seconds"], 0.03, True),
                Bar("memory, all rows over 60,000", ratio("peak_mb", "many rows", "few rows"), 1.2, True),
                Bar("memory, MB", lambda f: f["many rows"]["peak_mb"]),
                Bar("two processes over one", ratio("steady", "product", "one process")),
            ],
        )

    def _encoded(self) -> Section:
        folder, inside = self.material.many_files, self.material.inside_parquet
        manifest = {"kind": "manifest", "uri": str(inside), "columns": {"id": "id", "image": "image"}}
        cases = {
            "files": lambda: self._scored({"kind": "folder", "uri": str(folder)}, unit_rows=FEW),
            "inside": lambda: self._scored(manifest, unit_rows=FEW),
            "read_images": lambda: self._inferred("--folder", str(folder)),
            "bytes": lambda: self._inferred("--paths", str(inside), "--encoded"),
            "decoding": lambda: {"rate": run("tests.benchmarks.roofs", "decoding", str(folder))["rate"]},
            "bare loop": lambda: {"rate": run("tests.benchmarks.roofs", "graph", str(self.material.graph))["rate"]},
        }

        def both(f: dict[str, Figures]) -> float:
            return 1 / (1 / f["decoding"]["rate"] + 1 / f["bare loop"]["rate"])

        return Section(
            cases,
            [
                Bar("files: images/s, steady", figure("files", "steady")),
                Bar("files: steady over read_images", ratio("steady", "files", "read_images"), 3),
                Bar("files: steady over decoding alone", lambda f: f["files"]["steady"] / f["decoding"]["rate"]),
                Bar("files: steady over decoding and arithmetic", lambda f: f["files"]["steady"] / both(f)),
                Bar("in Parquet: images/s, steady", figure("inside", "steady")),
                Bar("in Parquet: steady over the guide's way", ratio("steady", "inside", "bytes"), 3),
                Bar("in Parquet: steady over decoding alone", lambda f: f["inside"]["steady"] / f["decoding"]["rate"]),
            ],
        )

    def _prepare(self) -> Section:
        folder = self.material.files
        cases = {
            "files": lambda: self._prepared("files"),
            "idx": lambda: self._prepared("idx"),
            "ray": lambda: self._peer_prepared(folder),
            "decoding": lambda: {"rate": run("tests.benchmarks.roofs", "decoding", str(folder))["rate"]},
        }
        return Section(
            cases,
            [
                Bar("files: rows/s, once Ray is there", figure("files", "rate")),
                Bar("files: whole command over that of the peer", ratio("whole", "files", "ray")),
                Bar("files: over read_images and write_parquet", ratio("rate", "files", "ray"), 3),
                Bar("files: share of decoding alone", ratio("rate", "files", "decoding")),
                Bar("idx: rows/s, once Ray is there", figure("idx", "rate")),
                Bar("idx: over read_images and write_parquet", ratio("rate", "idx", "ray"), 3),
            ],
        )

    def _units(self) -> Section:
        sizes = (1_000, 10_000) if self.quick else (1_000, 10_000, 100_000)
        cases = {f"{size:,}": lambda size=size: handled(size) for size in sizes}
        largest = f"{sizes[-1]:,}"
        return Section(
            cases,
            [
                Bar(f"{largest} units, s", figure(largest, "total_s"), 60, True),
                Bar(f"{largest} units, driver's memory, MB", figure(largest, "memory_growth_mb"), 1000, True),
                *(Bar(f"{name} units, microseconds a unit", figure(name, "us_per_unit")) for name in cases),
            ],
        )

    def _few(self, cases: dict[str, Callable[[], Figures]], *names: str) -> dict[str, Callable[[], Figures]]:
        """Where a rough look will do, only these."""
        return {name: cases[name] for name in names} if self.quick else cases

    def _least_budget(self) -> int:
        """Bytes with which a worker can stream the rows, and cannot keep them."""
        # Imported here: torch is nothing that the benches of scoring and preparing have a use for.
        from cnnjob.training.feed import streaming_bytes

        return streaming_bytes(read_manifest(str(self.material.fashion)))

    def _trained(self, precision: str, **more: Any) -> Figures:
        folder = fresh(self.material.root / "trained")
        given = {"num_epochs": self.epochs, "precision": precision, **more}
        told = run("pipelines", "train", str(self.material.train_config("trained", folder, **given)), "--json")
        if self.quick:
            # A rough look scores with what it has just trained: one start of a training less.
            self.material.trained = folder
        later = told["epochs"][1:] or told["epochs"]
        return {
            "rate": statistics.median(epoch["images_per_s"] for epoch in later),
            "pause_s": statistics.median(epoch["pause_s"] for epoch in later),
            **told["start"],
        }

    def _scored(self, given: dict[str, object], look_every_s: float | None = None, **engine: int) -> Figures:
        output = fresh(self.material.root / "scores")
        shutil.rmtree(f"{output}.meta", ignore_errors=True)
        config = self.material.score_config("scored", given, output, **engine)
        began = time.perf_counter()
        told, peak_mb = watched([sys.executable, "-m", "pipelines", "score", str(config), "--json"], look_every_s)
        return {
            "rows": told["rows"],
            "steady": told["images_per_s_steady"],
            "seconds": time.perf_counter() - began,
            "after": told["stages"]["verify"] + told["stages"]["publish"],
            "peak_mb": peak_mb,
        }

    def _inferred(self, *options: str) -> Figures:
        output = fresh(self.material.root / "peer")
        began = time.perf_counter()
        told = peer_run("ray_batch_inference", "--output", str(output), *options)
        return {
            "steady": told["images_per_s_steady"],
            "seconds": time.perf_counter() - began,
            "rows": told["rows"],
        }

    def _prepared(self, kind: str) -> Figures:
        output = fresh(self.material.root / "prepared")
        if kind == "idx":
            config, rows = self.material.idx_config(output), 70_000
        else:
            source = {"kind": "folder", "uri": str(self.material.files)}
            image = {"color": "rgb", "height": 32, "width": 32}
            config, rows = self.material.config("files", output=str(output), source=source, image=image), FILES
        began = time.perf_counter()
        told = run("pipelines", "prepare", str(config), "--json")
        return {"rate": told["rows_per_s"], "whole": rows / (time.perf_counter() - began)}

    def _peer_prepared(self, folder: Path) -> Figures:
        output = fresh(self.material.root / "peer")
        began = time.perf_counter()
        told = peer_run("ray_prepare", "--folder", str(folder), "--output", str(output))
        return {"rate": told["rows_per_s"], "whole": told["rows"] / (time.perf_counter() - began)}


SECTIONS = ("train", "train-bf16", "feeds", "start", "score", "encoded", "prepare", "units")
QUICK = ("train-bf16", "score")


def main() -> None:
    """Run the sections, print the table, and end with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, fewer rows, epochs and sections")
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    parser.add_argument("--folder", type=Path, default=Path("work/bench"))
    args = parser.parse_args()
    bench = Bench(Material(args.folder.resolve()), quick=args.quick)
    rows = []
    for name in args.only or (QUICK if args.quick else SECTIONS):
        rows += measured(name, bench.section(name), 1 if args.quick or name == "units" else args.rounds)
        keep(args.folder / "bench.json", name, rows)
    Console(width=110).print(table_of(rows))
    sys.exit(any(row.verdict == "FAILS" for row in rows))


def run(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a process of its own; its last object of JSON."""
    return watched([sys.executable, "-m", module, *arguments], every_s=None)[0]


def peer_run(name: str, *arguments: str) -> dict[str, Any]:
    """Run a peer."""
    return run(f"tests.benchmarks.peers.{name}", *arguments)


def rate_of(told: dict[str, Any]) -> Figures:
    """Images a second over the epochs after the first."""
    return {"rate": statistics.median(told["images_per_s"][1:] or told["images_per_s"])}


def started(name: str) -> Figures:
    """When what was there."""
    start: Figures = peer_run(name)["start"]
    return start


def handled(units: int) -> Figures:
    """What so many units take beside the arithmetic."""
    told = run("tests.benchmarks.units", "--units", str(units))
    return {key: told[key] for key in ("total_s", "us_per_unit", "memory_growth_mb")}


def fresh(path: Path) -> Path:
    """A path at which nothing lies."""
    shutil.rmtree(path, ignore_errors=True)
    return path


if __name__ == "__main__":
    main()
