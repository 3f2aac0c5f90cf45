"""What a trained generator is used for, as commands: images, figures, videos, projection, export.

    likeness generate RUN --seeds 0-15 --out grid.png
    likeness figure mixing RUN --rows 0-2 --columns 3-8 --out mixing.png

Each draws with the averaged generator of a run's newest checkpoint, and each file says where it comes from, for
`likeness trace`. Not here: any drawing (`training`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from flows.cli.output import answer
from flows.cli.parameters import FLAT, RUN, CheckpointOptions, DrawOptions, Json, Options
from storage.errors import ConfigError
from storage.runs import find_checkpoint
from storage.store import Store

if TYPE_CHECKING:  # torch is imported where it is needed
    from training.data import ImageArray
    from training.drawing.trained import Trained


RunName = Annotated[str, RUN]
Out = Annotated[Path, Parameter(help="The file to write.")]
Seeds = Annotated[str, Parameter(help="Seeds, such as 0-15 or 1,5,7.")]
Psi = Annotated[float, Parameter(help="Truncation: 0 is the mean face, 1 is none.")]
NoiseSeed = Annotated[int, Parameter(help="The seed whose noise all images share.")]

figure = App(name="figure", help="Draw the paper's figures with a trained generator.")


def generate(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The PNG to write; with --separate, the folder.")],
    seeds: Seeds = "0-15",
    truncation_psi: Annotated[
        str,
        Parameter(
            help="0 is the mean face, 1 is no truncation; of several, as 1,0.7,0.5, each gets a column "
            "(with --separate, a file)."
        ),
    ] = "0.7",
    separate: Annotated[bool, Parameter(negative="", help="Write one PNG a seed, not a grid.")] = False,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Draw images of seeds with a trained generator, as one grid that knows where it came from."""
    from flows.cli.parameters import parse_psis, parse_seeds
    from training.drawing.pictures import generate_files, generate_grid

    numbers, psis = parse_seeds(seeds), parse_psis(truncation_psi)
    trained = _trained(run, options)
    with _writing(out):
        if separate:
            made = {"files": [str(path) for path in generate_files(trained, numbers, out, psis)]}
        else:
            made = generate_grid(trained, numbers, out, psis)
    line = f"{len(numbers) * len(psis)} images in {out}, from {_source(trained)}"
    answer(json_, {"out": str(out), **made}, line)


@figure.command
def truncation(
    run: RunName,
    *,
    out: Out,
    seeds: Seeds = "0-3",
    psis: Annotated[str, Parameter(help="Truncations, a column each.")] = "1,0.7,0.5,0,-0.5",
    cutoff: Annotated[int | None, Parameter(help="How many first layers it acts on; unset: all.")] = None,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Figure 8: seeds in rows, truncations in columns, from the image itself over the mean face to its opposite."""
    from flows.cli.parameters import parse_psis, parse_seeds
    from training.drawing.figures import tiled, truncation_figure

    numbers, columns = parse_seeds(seeds), parse_psis(psis)
    if cutoff is not None and cutoff < 0:
        raise ConfigError(f"--cutoff {cutoff}: must be 0 or more")
    trained = _trained(run, options)
    images = truncation_figure(trained.style_generator("truncation"), numbers, columns, cutoff=cutoff)
    about = {"figure": "truncation", "seeds": numbers, "psis": columns, "cutoff": cutoff}
    _finish(trained, tiled([list(row) for row in images]), out, about, json_)


@figure.command
def mixing(
    run: RunName,
    *,
    out: Out,
    rows: Annotated[str, Parameter(help="Seeds of sources A, down the left.")] = "0-2",
    columns: Annotated[str, Parameter(help="Seeds of sources B, along the top.")] = "3-8",
    layers: Annotated[
        Literal["coarse", "middle", "fine", "all"],
        Parameter(
            help="Styles taken from B: coarse are those of 4-8 px, middle of 16-32, fine of 64 and above; "
            "all: a block of rows for each."
        ),
    ] = "all",
    psi: Psi = 1.0,
    noise_seed: NoiseSeed = 0,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Figure 3: each image takes some layers' styles from the source above it, all others from the one at its left."""
    from flows.cli.parameters import parse_psis, parse_seeds
    from training.drawing.figures import mixing_figure, mixing_layers, mixing_rows, tiled

    a, b = parse_seeds(rows), parse_seeds(columns)
    [checked_psi], [noise] = parse_psis(str(psi)), parse_seeds(str(noise_seed))
    trained = _trained(run, options)
    generator = trained.style_generator("style mixing")
    names = mixing_layers(generator, layers)
    images = mixing_figure(generator, a, b, names, psi=checked_psi, cutoff=trained.cutoff, noise_seed=noise)
    about = {"figure": "mixing", "rows": a, "columns": b, "layers": names, "truncation_psi": psi}
    _finish(trained, tiled(mixing_rows(*images)), out, {**about, "noise_seed": noise}, json_)


@figure.command
def noise(
    run: RunName,
    *,
    out: Out,
    seed: Annotated[int, Parameter(help="The image's seed.")] = 0,
    crops: Annotated[int, Parameter(help="Enlarged realisations to show.")] = 2,
    realisations: Annotated[int, Parameter(help="Realisations that the deviation is taken over.")] = 100,
    psi: Psi = 1.0,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Figures 4 and 5: one image under different noise, and with noise on all, no, fine and coarse layers only.

    First row: the image, a place of it under other noise, enlarged, and each pixel's standard deviation, white being
    the largest. Second row: the four cases; third: the same place of them.
    """
    from flows.cli.parameters import parse_psis, parse_seeds
    from training.drawing.figures import NOISE_CASES, noise_figure, tiled

    [checked_psi], [number] = parse_psis(str(psi)), parse_seeds(str(seed))
    for name, value, largest in (("crops", crops, 16), ("realisations", realisations, 10_000)):
        if not 1 <= value <= largest:
            raise ConfigError(f"--{name} {value}: must be from 1 to {largest}")
    trained = _trained(run, options)
    drawn = noise_figure(
        trained.style_generator("the figure of noise"),
        number,
        psi=checked_psi,
        cutoff=trained.cutoff,
        num_crops=crops,
        num_realisations=realisations,
    )
    about = {
        "figure": "noise",
        "seeds": [number],
        "truncation_psi": psi,
        "realisations": realisations,
        "cases": list(NOISE_CASES),
        "zoom_px": list(drawn.zoom),
        "largest_deviation": round(float(drawn.deviation_HW.max()), 3),
        "mean_deviation": round(float(drawn.deviation_HW.mean()), 3),
    }
    _finish(trained, tiled(drawn.rows()), out, about, json_)


def video(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The MP4 to write.")],
    seeds: Seeds = "0-7",
    seconds: Annotated[float, Parameter(help="Length of the whole loop.")] = 10.0,
    fps: Annotated[int, Parameter(help="Frames a second.")] = 30,
    psi: Psi = 0.7,
    noise_seed: NoiseSeed = 0,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Film a smooth closed walk through the styles of seeds, noise held still, as H.264."""
    from flows.cli.parameters import parse_psis, parse_seeds
    from training.drawing.figures import fixed_noise
    from training.drawing.images import w_from_seeds
    from training.drawing.video import check_video, closed_loop, frames, write_video

    numbers, [noise] = parse_seeds(seeds), parse_seeds(str(noise_seed))
    [checked_psi] = parse_psis(str(psi))
    if not (0 < seconds <= 3600 and 1 <= fps <= 240 and round(seconds * fps) >= 1):
        raise ConfigError(f"--seconds {seconds:g} --fps {fps}: at most an hour, of 1 to 240 frames a second")
    if len(numbers) < 2:
        raise ConfigError(f"--seeds {seeds}: a walk needs two seeds or more")
    check_video()
    trained = _trained(run, options)
    generator = trained.style_generator("a walk through styles")
    w_FLD = closed_loop(w_from_seeds(generator, numbers, checked_psi, trained.cutoff), round(seconds * fps))
    about = {"kind": "video", "seeds": numbers, "truncation_psi": psi, "noise_seed": noise, "fps": fps}
    metadata = {**trained.origin, **about, "frames": len(w_FLD)}
    pictures = frames(generator, w_FLD, fixed_noise(generator, noise))
    with _writing(out), _bar("video", len(w_FLD), "frame", json_) as advance:
        write_video(_counted(pictures, advance), out, fps, metadata)
    line = f"{len(w_FLD)} frames in {out}, through {len(numbers)} seeds of {trained.origin['run_id']}"
    answer(json_, {"out": str(out), **metadata}, line)


def project(
    run: RunName,
    photo: Annotated[Path, Parameter(help="A photograph, or an aligned crop, which is square.")],
    *,
    out: Annotated[
        Path, Parameter(help="The PNG to write, the target beside what w draws; w goes to .safetensors.")
    ],
    space: Annotated[Literal["w", "w+"], Parameter(help="One w for all layers, or a w for each.")] = "w",
    steps: Annotated[int, Parameter(help="Steps of gradient descent.")] = 500,
    distance: Annotated[
        Literal["auto", "lpips", "features", "pixels"],
        Parameter(
            help="lpips: LPIPS of VGG16, from torch's hub folder; features: EfficientNet-Lite0's and pixels; pixels "
            "alone; auto: the first that is installed."
        ),
    ] = "auto",
    align: Annotated[
        Literal["auto", "always", "never"],
        Parameter(help="Crop the face as the datasets'; auto: unless the photograph is square."),
    ] = "auto",
    seed: Annotated[int, Parameter(help="Seed of the noise held fixed and of the search.")] = 0,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Find the w that draws a photograph best: the target, what w draws, and w itself as safetensors."""
    from preprocessing.portrait import portrait
    from training.drawing.projection import ProjectConfig, save_projection
    from training.drawing.projection import project as search

    config = ProjectConfig.model_validate(
        {"space": space, "steps": steps, "distance": distance, "seed": seed}
    )
    trained = _trained(run, options)
    generator = trained.style_generator("projection")
    if out.suffix == ".safetensors":
        raise ConfigError(f"--out {out} is to be a PNG: w goes to a .safetensors of the same name")
    pixels, facts = portrait(photo, generator.resolution, align)
    with _bar("project", config.steps, "step", json_) as advance:
        result = search(generator, pixels, config, advance)
    about = {"kind": "projection", **facts, **config.model_dump(mode="json"), **result.summary()}
    metadata = {**trained.origin, **about}
    with _writing(out):
        tensors = save_projection(result, out, metadata)
    curve = " ".join(f"{value:.4g}" for value in result.curve(6))
    lines = [
        f"{out}: PSNR {result.psnr_db:.1f} dB after {steps} steps in {space.upper()}",
        f"  distance ({result.distance}) {curve}",
        f"  w in {tensors}",
    ]
    if not facts["aligned"]:
        lines.append(
            f"  {photo} is square and was taken as an aligned crop: --align always looks for the face in it"
        )
    answer(json_, {"out": str(out), "w": str(tensors), **metadata}, *lines)


def export(
    run: RunName,
    *,
    out: Annotated[Path, Parameter(help="The file to write.")],
    format_: Annotated[
        Literal["safetensors", "onnx"], Parameter(name="--format", help="For torch, or for the rest.")
    ] = "safetensors",
    noise: Annotated[
        Literal["const", "input"],
        Parameter(help="In ONNX: the noise of --noise-seed, or inputs of their own."),
    ] = "const",
    noise_seed: Annotated[int, Parameter(help="The seed whose noise all images have.")] = 0,
    options: Annotated[CheckpointOptions, FLAT] = CheckpointOptions(),
    json_: Json = False,
) -> None:
    """Write the averaged generator as one file; ONNX is run, and compared with torch, before it is kept."""
    from flows.cli.parameters import parse_seeds
    from training.drawing.export import export_onnx, export_safetensors

    [number] = parse_seeds(str(noise_seed))
    trained = _trained(run, DrawOptions(**options.model_dump(), device="cpu"))
    with _writing(out):
        if format_ == "safetensors":
            metadata = export_safetensors(trained, out)
        else:
            metadata = export_onnx(trained, out, noise=noise, noise_seed=number)
    lines = [f"{out}: the generator of {_source(trained)}"]
    if format_ == "onnx":
        lines.append(
            f"  onnxruntime's images differ from torch's by {metadata['max_difference']:.2g} at most"
        )
    answer(json_, {"out": str(out), **metadata}, *lines)


# --------------------------------------------------------------------------------------------------------------


def _trained(run: str, options: DrawOptions) -> Trained:
    checkpoint = find_checkpoint(Store(options.store), run, options.checkpoint)
    from training.device import resolve_device
    from training.drawing.trained import open_trained

    return open_trained(checkpoint, resolve_device(options.device))


def _source(trained: Trained) -> str:
    """The checkpoint, for people."""
    return f"checkpoint {trained.origin['checkpoint']} of {trained.origin['run_id']}"


def _finish(trained: Trained, picture: ImageArray, out: Path, about: dict[str, Any], json_: bool) -> None:
    """Write a figure with its metadata, and say so."""
    from training.drawing.pictures import write_png

    metadata = {**trained.origin, "kind": "figure", **about}
    with _writing(out):
        write_png(picture, out, metadata)
    answer(json_, {"out": str(out), **metadata}, f"{out}, from {_source(trained)}")


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
