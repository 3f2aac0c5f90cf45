"""What a trained generator is used for, as commands: images, figures, videos, projection, edits, export.

    likeness generate RUN --seeds 0-15 --out grid.png
    likeness figure mixing RUN --rows 0-2 --columns 3-8 --out mixing.png
    likeness generate bundled --seeds 0-15 --out faces.png

Each draws with the averaged generator of a run's newest checkpoint, or with the generator in the box. Each file says
where it comes from, for `likeness trace`. Not here: any drawing (`training`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from flows.cli.output import answer, print_resolved, warn
from flows.cli.parameters import FLAT, DryRun, ExportOptions, Json, PictureOptions, Signed
from storage.bundled.generator import BUNDLED, BUNDLED_SHA256, check_reserved
from storage.config import Config
from storage.errors import ConfigError, SourceError
from storage.imports import IMPORTED, known_import
from storage.runs import find_checkpoint
from storage.store import Store
from storage.wording import numbered
from training.drawing.settings import (
    DirectionsConfig,
    EditConfig,
    ExportConfig,
    GenerateConfig,
    MixingConfig,
    NoiseConfig,
    ProjectConfig,
    TruncationConfig,
    VideoConfig,
)

if TYPE_CHECKING:  # torch is imported where it is needed
    from training.data import ImageArray
    from training.drawing.trained import Trained


RunName = Annotated[
    str,
    Parameter(
        help="A run, by its id or folder, one of its checkpoints' folders, an import's name, or `bundled`, the "
        "generator in the box."
    ),
]


def ends_in(*suffixes: str) -> Callable[[Any, Path], None]:
    """For an option: that the file it names ends in one of these, since that is what is written."""

    def check(type_: Any, path: Path) -> None:
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"the file is to end in {' or '.join(suffixes)}")

    return check


Out = Annotated[Path, Parameter(help="The PNG to write.", validator=ends_in(".png"))]

figure = App(name="figure")


def generate(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The PNG to write; with --separate, the folder.")],
    config: Annotated[GenerateConfig, FLAT] = GenerateConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Draw images of seeds with a trained generator, as one grid that knows where it came from."""
    if (out.suffix.lower() == ".png") == config.separate:
        wanted = "a folder, with --separate" if config.separate else "a .png, or with --separate a folder"
        raise ConfigError(f"--out {out} is to be {wanted}")
    trained = opened(run, options)
    seeds, psis = config.seeds, config.truncation_psi
    from training.drawing.pictures import check_tiles, generate_files, generate_grid

    if not config.separate:
        check_tiles(len(seeds) * len(psis), trained.generator.resolution, "fewer seeds, or --separate")
    if dry_run:
        return resolved(trained, out, config, options, json_)
    with _writing(out):
        if config.separate:
            made = {"files": [str(path) for path in generate_files(trained, seeds, out, psis)]}
        else:
            made = generate_grid(trained, seeds, out, psis)
    line = f"{numbered(len(seeds) * len(psis), 'image')} in {out}, from {_source(trained)}"
    answer(json_, {"out": str(out), **made}, line)


@figure.command
def truncation(
    run: RunName,
    *,
    out: Out,
    config: Annotated[TruncationConfig, FLAT] = TruncationConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Figure 8: seeds in rows, truncations in columns, from the image itself over the mean face to its opposite."""
    trained = opened(run, options)
    from training.drawing.figures import tiled, truncation_figure
    from training.drawing.pictures import check_tiles

    generator = trained.style_generator("truncation")
    check_tiles(len(config.seeds) * len(config.psis), generator.resolution, "fewer seeds or psis")
    if dry_run:
        return resolved(trained, out, config, options, json_)
    images = truncation_figure(
        generator, config.seeds, config.psis, cutoff=config.cutoff, noise_seed=config.noise_seed
    )
    about = {
        "figure": "truncation",
        "seeds": list(config.seeds),
        "psis": list(config.psis),
        "cutoff": config.cutoff,
    }
    if config.noise_seed is not None:
        about["noise_seed"] = config.noise_seed
    _finish(trained, tiled([list(row) for row in images]), out, about, json_)


@figure.command
def mixing(
    run: RunName,
    *,
    out: Out,
    config: Annotated[MixingConfig, FLAT] = MixingConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Figure 3: each image takes some layers' styles from the source above it, all others from the one at its left."""
    trained = opened(run, options)
    from training.drawing.figures import mixing_figure, mixing_layers, mixing_rows, tiled
    from training.drawing.pictures import check_tiles

    generator = trained.style_generator("style mixing")
    layers = mixing_layers(generator, config.layers)
    num_rows = len(layers) * len(config.rows) + 1
    check_tiles(num_rows * (len(config.columns) + 1), generator.resolution, "fewer rows, columns or layers")
    if dry_run:
        return resolved(trained, out, config, options, json_)
    images = mixing_figure(
        generator,
        config.rows,
        config.columns,
        layers,
        psi=config.psi,
        cutoff=trained.cutoff,
        noise_seed=config.noise_seed,
    )
    about = {
        "figure": "mixing",
        "rows": list(config.rows),
        "columns": list(config.columns),
        "layers": layers,
        "truncation_psi": config.psi,
        "noise_seed": config.noise_seed,
    }
    _finish(trained, tiled(mixing_rows(*images)), out, about, json_)


@figure.command
def noise(
    run: RunName,
    *,
    out: Out,
    config: Annotated[NoiseConfig, FLAT] = NoiseConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Figures 4 and 5: one image under different noise, and with noise on all, no, fine and coarse layers only.

    First row: the image, a place of it under other noise, enlarged, and each pixel's standard deviation, white being
    the largest. Second row: the four cases; third: the same place of them.
    """
    trained = opened(run, options)
    from training.drawing.figures import NOISE_CASES, check_noise, noise_figure, tiled

    generator = trained.style_generator("the figure of noise")
    check_noise(generator)
    if dry_run:
        return resolved(trained, out, config, options, json_)
    drawn = noise_figure(
        generator,
        config.seed,
        psi=config.psi,
        cutoff=trained.cutoff,
        num_crops=config.num_crops,
        num_realisations=config.num_realisations,
    )
    about = {
        "figure": "noise",
        "seeds": [config.seed],
        "truncation_psi": config.psi,
        "realisations": config.num_realisations,
        "cases": list(NOISE_CASES),
        "zoom_px": list(drawn.zoom),
        "largest_deviation": round(float(drawn.deviation_HW.max()), 3),
        "mean_deviation": round(float(drawn.deviation_HW.mean()), 3),
    }
    _finish(trained, tiled(drawn.rows()), out, about, json_)


def video(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The MP4 to write.", validator=ends_in(".mp4"))],
    config: Annotated[VideoConfig, FLAT] = VideoConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Film a smooth closed walk through the styles of seeds, noise held still, as H.264."""
    trained = opened(run, options)
    from training.drawing.figures import fixed_noise
    from training.drawing.images import w_from_seeds
    from training.drawing.video import check_video, closed_loop, frames, write_video

    check_video()
    generator = trained.style_generator("a walk through styles")
    if dry_run:
        return resolved(trained, out, config, options, json_)
    keys = w_from_seeds(generator, config.seeds, config.psi, trained.cutoff)
    w_FLD = closed_loop(keys, config.num_frames)
    metadata = {
        **trained.origin,
        "kind": "video",
        "seeds": list(config.seeds),
        "truncation_psi": config.psi,
        "noise_seed": config.noise_seed,
        "fps": config.fps,
    }
    pictures = frames(generator, w_FLD, fixed_noise(generator, config.noise_seed))
    with _writing(out), _bar("video", len(w_FLD), "frame", json_) as advance:
        metadata = write_video(_counted(pictures, advance), out, config.fps, metadata, trained.signer)
    num_frames, seeds = numbered(len(w_FLD), "frame"), numbered(len(config.seeds), "seed")
    line = f"{num_frames} in {out}, through {seeds} of {run_name(trained)}"
    answer(json_, {"out": str(out), **metadata}, line)


def project(
    run: RunName,
    photo: Annotated[Path, Parameter(help="A photograph, or an aligned crop, which is square.")],
    *,
    out: Annotated[
        Path,
        Parameter(
            help="The PNG to write, the target beside what w draws; w goes to .safetensors.",
            validator=ends_in(".png"),
        ),
    ],
    align: Annotated[
        Literal["auto", "always", "never"],
        Parameter(help="Crop the face as the datasets'; auto: unless the photograph is square."),
    ] = "auto",
    identity: Annotated[
        bool,
        Parameter(
            negative="", help="Say how far apart dlib's embedding finds both faces: of one person, up to 0.6."
        ),
    ] = False,
    config: Annotated[ProjectConfig, FLAT] = ProjectConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Find the w that draws a photograph best.

    Written are the target beside what w draws, and w itself as safetensors.
    """
    trained = opened(run, options)
    from preprocessing.portrait import identity_distance, portrait
    from training.drawing.projection import project as search
    from training.drawing.projection import resolve_distance, save_projection

    generator = trained.style_generator("projection")
    if out.exists() and photo.exists() and out.samefile(photo):
        raise ConfigError(f"--out {out} is the photograph itself, which would be written over")
    if dry_run:
        if not photo.is_file():
            raise SourceError(f"{photo} cannot be read: it is no file")
        found = config.model_copy(update={"distance": resolve_distance(config.distance)})
        return resolved(trained, out, found, options, json_, photo=str(photo), align=align)
    pixels, facts = portrait(photo, generator.resolution, align)
    if not facts.get("shows_face", True):
        warn(f"{photo} is square and is projected as it is, but no face that fills half of it was found")
    with _bar("project", config.steps, "step", json_) as advance:
        result = search(generator, pixels, config, advance)
    about = {"kind": "projection", **facts, **config.model_dump(mode="json"), **result.summary()}
    if identity:
        crops = (result.target.transpose(1, 2, 0), result.image.transpose(1, 2, 0))
        about["identity_distance"] = identity_distance(*crops)
    metadata = {**trained.origin, **about}
    with _writing(out):
        tensors = save_projection(result, out, metadata, trained.signer)
    curve = " ".join(f"{value:.4g}" for value in result.curve(6))
    lines = [
        f"{out}: PSNR {result.psnr_db:.1f} dB after {numbered(config.steps, 'step')} in {config.space.upper()}",
        f"  distance ({result.distance}) {curve}",
        f"  w in {tensors}",
    ]
    if identity:
        distance = about["identity_distance"]
        said = "one of them shows no face" if distance is None else f"{distance:.2f}, of one person up to 0.6"
        lines.append(f"  identity: {said}")
    if not facts["aligned"]:
        lines.append(
            f"  {photo} is square and was taken as an aligned crop: --align always looks for the face in it"
        )
    answer(json_, {"out": str(out), "w": str(tensors), **metadata}, *lines)


def directions(
    run: RunName,
    *,
    out: Annotated[
        Path,
        Parameter(
            help="The PNG to write, each direction a row; vectors go to .safetensors.",
            validator=ends_in(".png"),
        ),
    ],
    config: Annotated[DirectionsConfig, FLAT] = DirectionsConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Find directions in w that change a picture in one way each, without labels: SeFa and GANSpace.

    Written are a figure, and the directions as safetensors. They follow from the checkpoint: `likeness edit` takes them
    by name.
    """
    trained = opened(run, options)
    from training.drawing.directions import directions as search
    from training.drawing.directions import directions_figure, save_directions

    generator = trained.style_generator("a search for directions")
    tensors = out.with_suffix(".safetensors")
    if dry_run:
        return resolved(trained, out, config, options, json_)
    found = search(generator, config)
    about = {
        "figure": "directions",
        "directions": [one.name for one in found],
        "seeds": [config.seed],
        "strengths": list(config.strengths),
        "truncation_psi": config.psi,
    }
    with _writing(out):
        save_directions(found, tensors, {**trained.origin, "kind": "directions", **about})
    lines = [f"  {one.name:<16}{one.share:6.1%}  layers {_span(one.layers)}" for one in found]
    picture = directions_figure(generator, found, config, trained.cutoff)
    shown = {"vectors": str(tensors), "found": {one.name: round(one.share, 6) for one in found}}
    _finish(trained, picture, out, about, json_, *lines, f"  vectors in {tensors}", **shown)


def edit(
    run: RunName,
    *,
    out: Out,
    config: Annotated[EditConfig, FLAT] = EditConfig(seeds=(0,), direction="sefa.all.0"),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Move pictures of seeds, or projected photographs, along a direction, or from one to another.

    A row is a picture, a column a strength. With --between, one row leads from the first to the second.
    """
    trained = opened(run, options)
    from training.drawing.edits import edited, sources_of
    from training.drawing.figures import tiled

    generator = trained.style_generator("an edit")
    sources = sources_of(trained, config)
    if dry_run:
        return resolved(trained, out, config, options, json_)
    rows = edited(generator, sources, config)
    about = {
        "figure": "edit",
        **config.model_dump(mode="json", exclude={"projected"}, exclude_none=True),
        **{"projected": [source.record for source in sources if source.record]},
    }
    _finish(trained, tiled([list(row) for row in rows]), out, about, json_)


def export(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The file to write.")],
    config: Annotated[ExportConfig, FLAT] = ExportConfig(),
    options: Annotated[ExportOptions, FLAT] = ExportOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write the averaged generator as one file, for torch or as ONNX.

    An ONNX file is run, and its images compared with torch's, before it is kept. A dataset is for export-dataset.
    """
    if out.suffix.lower() != f".{config.format}":
        raise ConfigError(f"--out {out} is to end in .{config.format}, as its --format")
    trained = opened(run, PictureOptions(**options.model_dump(), device="cpu"))
    from training.drawing.export import check_onnx, export_onnx, export_safetensors

    if config.format == "onnx":
        check_onnx()
    if dry_run:
        return resolved(trained, out, config, options, json_)
    with _writing(out):
        if config.format == "safetensors":
            metadata = export_safetensors(trained, out, precision=config.precision)
        else:
            metadata = export_onnx(trained, out, noise=config.noise, noise_seed=config.noise_seed)
    lines = [f"{out}, from {_source(trained)}"]
    if config.format == "onnx":
        lines.append(
            f"  onnxruntime's images differ from torch's by {metadata['max_difference']:.2g} at most"
        )
    answer(json_, {"out": str(out), **metadata}, *lines)


# --------------------------------------------------------------------------------------------------------------


def opened(run: str, options: PictureOptions) -> Trained:
    """What draws: a checkpoint of a run, an import, or the generator in the box."""
    store = Store(options.store)
    if run == BUNDLED:
        check_reserved(store)
    imported = None if run == BUNDLED else known_import(store, run)
    if (run == BUNDLED or imported) and options.checkpoint is not None:
        raise ConfigError(f"{run!r} is one generator, without checkpoints: leave --checkpoint out")
    checkpoint = None if run == BUNDLED or imported else find_checkpoint(store, run, options.checkpoint)
    from training.device import resolve_device
    from training.drawing.trained import open_bundled, open_imported, open_trained

    device = resolve_device(options.device)
    if imported is not None:
        trained = open_imported(imported, device)
    else:
        trained = open_trained(checkpoint, device) if checkpoint else open_bundled(device)
    trained = trained.of_label(options.label)
    if not options.sign:
        return trained
    from training.drawing.marks import Signer

    return dataclasses.replace(trained, signer=Signer.open(*options.sign))


def resolved(trained: Trained, out: Path, config: Config, options: Config, json_: bool, **of: str) -> None:
    """What a dry run says: the checkpoint is opened and checked, and nothing is drawn."""
    checkpoint = {} if IMPORTED in trained.origin else {"checkpoint": str(trained.origin["checkpoint"])}
    print_resolved(json_, config, options, run=run_name(trained), **checkpoint, **of, out=str(out))


def run_name(trained: Trained) -> str:
    """The run, as a command takes it."""
    if BUNDLED_SHA256 in trained.origin:
        return BUNDLED
    return str(trained.origin.get(IMPORTED) or trained.origin["run_id"])


def _source(trained: Trained) -> str:
    """What drew, for people."""
    if BUNDLED_SHA256 in trained.origin:
        return "the generator in the box"
    if IMPORTED in trained.origin:
        return f"the imported generator {trained.origin[IMPORTED]}"
    return f"checkpoint {trained.origin['checkpoint']} of {trained.origin['run_id']}"


def _finish(
    trained: Trained,
    picture: ImageArray,
    out: Path,
    about: dict[str, Any],
    json_: bool,
    *lines: str,
    **more: Any,
) -> None:
    """Write a figure with its metadata, and say so, with more for people and for scripts."""
    from training.drawing.pictures import write_png

    metadata = {**trained.origin, "kind": "figure", **about}
    with _writing(out):
        metadata = write_png(picture, out, metadata, trained.signer)
    answer(json_, {"out": str(out), **metadata, **more}, f"{out}, from {_source(trained)}", *lines)


def _span(layers: range) -> str:
    return f"{layers[0]}-{layers[-1]}"


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn what keeps a file from being written into one sentence."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error


@contextmanager
def _bar(name: str, total: int, unit: str, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, and what moves it on by one."""
    from flows.cli.progress import bars

    with bars(Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task(name, total=total, unit=unit, note="")
        yield lambda: progress.advance(task)


def _counted(pictures: Iterable[ImageArray], advance: Callable[[], None]) -> Iterator[ImageArray]:
    for picture in pictures:
        yield picture
        advance()
