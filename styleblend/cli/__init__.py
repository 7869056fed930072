"""The command line: `styleblend doctor | train | generate | memory | inspect | load | export | eval | grid | tune | test`. Every error a user can cause is one sentence and exit code 2."""
from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import List, Optional

from styleblend import __version__
from styleblend.errors import Busy, Stopped, StyleBlendError
from styleblend.cli.scoring import add_scoring_commands
from styleblend.machine.signals import handle

MINI = "configs/mini.yaml"
FORMATS = ("diffusers", "kohya", "webui", "single")


def add_config(parser) -> None:
    parser.add_argument("--config", default=MINI, help="settings: configs/mini.yaml (laptop) or configs/sd21.yaml (Stable Diffusion 2.1)")


def add_max_pixels(parser) -> None:
    parser.add_argument("--max-pixels", type=int, help="style pictures with more are refused; default: the config's (pictures.max_pixels), else 64 million")


def add_dtype(parser) -> None:
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="what frozen weights and activations are kept in: 16 bits take half the "
                        "memory (the VAE stays float32 beside float16); default: the config's (dtype), else float32")


def with_dtype(settings, dtype: Optional[str]):
    """The settings with this type of numbers, where one is given."""
    return settings.model_copy(update={"dtype": dtype}) if dtype else settings


def add_max_memory(parser) -> None:
    parser.add_argument("--max-memory", metavar="SIZE", help="such as 8GB: estimate first what is needed; change what a picture or style hardly depends on "
                        "until it fits, or refuse")


def within_memory(settings, base: Path, kind: str, limit: Optional[str]):
    """The settings, made leaner where `--max-memory` asks for it; `kind` is one of `styleblend.jobs.memory`."""
    if not limit:
        return settings
    from styleblend.jobs.memory import fitted
    return fitted(settings, base, kind, limit, lambda line: print(f"styleblend: {line}", file=sys.stderr))


def with_pictures(settings, **changes):
    """The settings with these of `pictures` where they are given."""
    from styleblend.settings import validated
    given = {key: value for key, value in changes.items() if value is not None}
    pictures = validated(type(settings.pictures), {**settings.pictures.model_dump(), **given}, "--" + next(iter(given), "pictures").replace("_", "-"))
    return settings.model_copy(update={"pictures": pictures})


def parser_for_test(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of `python test.py`."""
    add_config(parser)
    parser.add_argument("--styles", help="names with commas between them; default: every style that has adapters")
    parser.add_argument("--prompts", help='how many of prompt.json ("3"), or names ("Cat,Dog"); default: all')
    parser.add_argument("--output", help="folder of the pictures; default: the config's")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="draw part I of N: for several GPUs or machines")
    parser.add_argument("--batch", type=int, help="prompts that are drawn together; default: the config's")
    add_max_pixels(parser)
    add_dtype(parser)
    add_max_memory(parser)
    parser.add_argument("--offload", action="store_true", help="on a GPU: keep each network in the host's memory while another one works; slower, and less memory of the card")
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    parser.set_defaults(run=run_test)
    return parser


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="styleblend", description="Learn a style from a few pictures, then draw any prompt in it.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    kind = argparse.ArgumentDefaultsHelpFormatter
    doctor = commands.add_parser("doctor", help="check this machine and say what to type", formatter_class=kind)
    doctor.set_defaults(run=run_doctor)
    train = commands.add_parser("train", help="learn styles", formatter_class=kind)
    train.add_argument("part", choices=["coarse", "fine", "all"], help="layout (text encoder), texture (UNet), or both")
    add_config(train)
    train.add_argument("--styles", default=None, help="names with commas between them; default: all of the data folder")
    train.add_argument("--fit", choices=["crop", "pad"], help="style pictures of other proportions than the training size: crop to the middle, "
                       "or pad with white; default: the config's (pictures.fit), else crop")
    add_max_pixels(train)
    add_dtype(train)
    add_max_memory(train)
    train.add_argument("--overwrite", action="store_true", help="train again what is trained already, from the start")
    train.add_argument("--keep", choices=["last", "best"], help="which step becomes the adapters: the last, or the one whose picture grid has the best score; "
                       "default: the config's (training.keep_adapters), else last")
    train.add_argument("--share", action="store_true", help="leave styles that another process trains now to it: for several workers with one list of styles")
    train.set_defaults(run=run_train)
    generate = commands.add_parser("generate", help="draw one prompt in a style", formatter_class=kind)
    add_config(generate)
    generate.add_argument("--style", help="name of a trained style")
    generate.add_argument("--prompt", help='a phrase such as "A cat on a boat"')
    generate.add_argument("--from", dest="again", metavar="PICTURE", help="draw a picture of this program again, with the settings that it carries; "
                          "--prompt, --seed, --strength and --dtype change these")
    generate.add_argument("--seed", type=int, help="default: the config's (sampling.seed), or the picture's")
    generate.add_argument("--strength", type=float, metavar="FACTOR", help="how strong the style is drawn: 1 as trained, more or less of it, such as 1.4 or 0.7; "
                          "default: the style's own (blend.fine_scale), else 1")
    add_dtype(generate)
    add_max_memory(generate)
    generate.add_argument("--output", help="file to write; default: picture.png, or NAME-again.png for --from NAME.png")
    generate.set_defaults(run=run_generate)
    memory = commands.add_parser("memory", help="estimate the memory that drawing and training with a config take", formatter_class=kind)
    add_config(memory)
    add_dtype(memory)
    memory.set_defaults(run=run_memory)
    inspect = commands.add_parser("inspect", help="say what an adapter file is: kind, rank, layers, tokens, width", formatter_class=kind)
    inspect.add_argument("file", help=".safetensors, .bin or .pt")
    inspect.set_defaults(run=run_inspect)
    load = commands.add_parser("load", help="take adapter files of other programs as a style", formatter_class=kind)
    load.add_argument("files", nargs="+", metavar="FILE", help="LoRAs and embeddings of diffusers, PEFT, kohya, A1111 or the published StyleBlend; or a style in one file")
    load.add_argument("--name", required=True, help="name of the style")
    add_config(load)
    load.add_argument("--output", default=None, help="folder of adapters; default: the config's")
    load.add_argument("--overwrite", action="store_true", help="replace parts that are there already")
    load.add_argument("--attention-only", action="store_true", help="of a LoRA that also changes other layers (as kohya's scripts train it) take those in attention; "
                      "default: such a file is refused")
    load.set_defaults(run=run_load)
    export = commands.add_parser("export", help="write a trained style for other programs", formatter_class=kind)
    export.add_argument("style", help="folder of a trained style, such as checkpoints/mini/styles/fxemoji")
    export.add_argument("--format", choices=FORMATS, default="kohya", help="diffusers; kohya (ComfyUI); webui (A1111's folders); single: all in one file, for this program")
    export.add_argument("--output", required=True, help="folder for the files")
    export.add_argument("--coarse-strength", type=float, default=1.0, help="factor of the text encoder's LoRA")
    export.add_argument("--fine-strength", type=float, default=1.0, help="factor of the UNet's LoRA")
    export.add_argument("--config", help="the config of the base that the style was trained on: kohya's files then name its kind, size and prediction type")
    export.set_defaults(run=run_export)
    config = argparse.ArgumentParser(add_help=False)
    add_config(config)
    add_scoring_commands(commands, parents=[config], formatter_class=kind)
    parser_for_test(commands.add_parser("test", help="draw every prompt of every style (as test.py)", formatter_class=kind))
    return parser


def run_doctor(args) -> int:
    from styleblend.machine.doctor import run_doctor as check
    return check()


def run_memory(args) -> int:
    from styleblend.base.base import find_base
    from styleblend.jobs.memory import MIB, Sizes, table
    from styleblend.settings import read_settings
    settings = with_dtype(read_settings(args.config), args.dtype)
    sizes = Sizes(find_base(settings.base, settings.base_id), settings.dtype)
    for name, size in table(sizes, settings):
        print(f"{name:28} {size / MIB:8,.0f} MiB")
    return 0


def run_inspect(args) -> int:
    from styleblend.adapters.inspect import inspect
    for name, text in inspect(Path(args.file)).items():
        print(f"{name:28} {text}")
    return 0


def run_load(args) -> int:
    from styleblend.adapters.load import gather, load_files
    from styleblend.files.names import check_name
    from styleblend.settings import read_settings
    settings, name = read_settings(args.config), check_name(args.name)
    found = gather([Path(file) for file in args.files], args.attention_only)  # before the base, which takes longer to read
    from styleblend.base.base import find_base, load_base
    base, output = load_base(find_base(settings.base, settings.base_id)), Path(args.output or settings.adapters)
    for line in load_files(found, name, base, output, args.overwrite):
        print(line)
    print(f"{name} is in {output / name}" + ("" if args.output else f'; draw with it: python -m styleblend generate --config {args.config} --style {name} --prompt "A rabbit"'))
    return 0


def run_export(args) -> int:
    from styleblend.adapters.export import LOSS, export, own_blend, own_settings
    base = None
    if args.config:
        from styleblend.base.base import find_base
        from styleblend.settings import read_settings
        settings = read_settings(args.config)
        base = find_base(settings.base, settings.base_id)
    for path in export(Path(args.style), args.format, Path(args.output), args.coarse_strength, args.fine_strength, base):
        print(path)
    if args.format != "single":
        blend, guidance = own_blend(Path(args.style)), own_settings(Path(args.style)).guidance
        own = f"; the UNet's LoRA is multiplied by the style's own fine_scale, {blend.fine_scale:g}" if blend.fine_scale != 1 else ""
        if blend.negative_scale != 1:
            own += (f"; elsewhere the negative prompt feels the whole LoRA, here {blend.negative_scale:g} of it (negative_scale): "
                    "should the style come out weaker there, export with a higher --fine-strength")
        if guidance is not None:
            own += f"; it is drawn with a guidance (CFG scale) of {guidance:g}"
        print(f"styleblend: {LOSS}{own}", file=sys.stderr)
    return 0


def run_test(args) -> int:
    from styleblend.base.base import find_base
    from styleblend.jobs.board import draw_board
    from styleblend.settings import read_settings, validated
    settings = with_dtype(with_pictures(read_settings(args.config), max_pixels=args.max_pixels), args.dtype)
    if args.output:
        settings = settings.model_copy(update={"output": args.output})
    if args.offload:
        settings = settings.model_copy(update={"offload": True})
    if args.batch is not None:
        sampling = validated(type(settings.sampling), {**settings.sampling.model_dump(), "batch": args.batch}, "--batch")
        settings = settings.model_copy(update={"sampling": sampling})
    if args.max_memory:
        settings = within_memory(settings, find_base(settings.base, settings.base_id), "drawing", args.max_memory)
    drawn = draw_board(settings, args.styles, args.prompts, args.shard, args.overwrite)
    print(f"{len(drawn)} new pictures; all are in {settings.output}/ (open {settings.output}/index.html)")
    return 0


def run_train(args) -> int:
    from styleblend.base.base import find_base
    from styleblend.files.captions import style_names, style_pictures
    from styleblend.files.names import check_name, entry
    from styleblend.files.pictures import check_picture
    from styleblend.settings import read_settings
    settings = with_dtype(with_pictures(read_settings(args.config), fit=args.fit, max_pixels=args.max_pixels), args.dtype)
    if args.keep:
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"keep_adapters": args.keep})})
    names = [check_name(n.strip()) for n in args.styles.split(",")] if args.styles else style_names(Path(settings.data))
    began, failed = time.time(), {}
    for name in names:
        for picture in style_pictures(entry(settings.data, name)):  # all are checked before the first one is trained
            check_picture(picture.path, settings.sampling.width, settings.sampling.height, settings.pictures)
    base = find_base(settings.base, settings.base_id)
    settings = within_memory(settings, base, "training", args.max_memory)
    for name in names:
        for part in ("coarse", "fine") if args.part == "all" else [args.part]:
            try:
                train_part(name, part, settings, base, args.overwrite, began if args.share else None)
            except Busy as busy:
                if not args.share:
                    raise
                print(f"styleblend: {busy}; going on with the next one", file=sys.stderr)
            except Stopped:
                raise
            except StyleBlendError as error:  # of one style: the others need not wait for it
                if len(names) == 1:
                    raise
                failed[f"{name} ({part})"] = str(error)
                print(f"styleblend: {name}: {error}; going on with the next one", file=sys.stderr)
    if failed:
        raise StyleBlendError(f"{len(failed)} trainings failed: " + "; ".join(f"{what}: {why}" for what, why in failed.items()))
    return 0


def train_part(name: str, part: str, settings, base: Path, overwrite: bool, began: Optional[float] = None) -> None:
    """Train one part of a style, unless it is there, with its folders claimed: Busy when another process has them.

    `overwrite` leaves alone what one of several workers has trained since this one `began`: it was asked to do the same.
    """
    from styleblend.base.base import load_base
    from styleblend.files.whole_files import claim, remove_unfinished
    from styleblend.pipeline import StyleBlendPipeline
    from styleblend.adapters.style import part_file, remove_part
    from styleblend.training.coarse import train_coarse
    from styleblend.training.fine import train_fine
    from styleblend.training.look_alikes import DRAWN_WITH
    function, product, stages = {"coarse": (train_coarse, "text_lora", ["coarse"]), "fine": (train_fine, "unet_lora", ["inversion", "lora"])}[part]
    folder, look_alikes = Path(settings.adapters) / name, Path(settings.look_alikes) / name
    with contextlib.ExitStack() as claims:
        claims.enter_context(claim(folder / "training", part))
        done = part_file(folder, name, product)
        if done and overwrite and began is not None and done.stat().st_mtime >= began:
            print(f"{name}: {part} has just been trained by another worker", file=sys.stderr)
            return
        if done and not overwrite:
            print(f"{name}: {part} is trained already ({folder}); --overwrite trains it again", file=sys.stderr)
            return
        if part == "coarse":
            claims.enter_context(claim(look_alikes, "look-alikes"))
        remove_unfinished(folder, folder / "training", look_alikes)
        if overwrite:
            for stage in stages:
                shutil.rmtree(folder / "training" / stage, ignore_errors=True)
            # what is written last goes first: so a stopped run, started again without --overwrite, goes on where it was
            remove_part(folder, name, product)
            for file in [look_alikes / DRAWN_WITH, *look_alikes.glob("*.png")] if part == "coarse" else []:
                file.unlink(missing_ok=True)
        print(f"{name}: learning the {part} style", file=sys.stderr)
        # a training frees networks when their work is done, so each begins with the base anew
        function(StyleBlendPipeline(load_base(base, settings.dtype)), name, settings)
        print(f"{name}: {part} style is in {folder}", file=sys.stderr)


def run_generate(args) -> int:
    from styleblend.base.base import find_base, load_base
    from styleblend.jobs.board import saved_size, style_settings
    from styleblend.files.names import check_name
    from styleblend.files.pictures import save_png
    from styleblend.pipeline import StyleBlendPipeline
    from styleblend.files.prompts import phrase_of
    from styleblend.record import Record, libraries, read_record, style_hash
    from styleblend.settings import LARGEST_SEED, BlendSettings, blend_for, read_settings, sampling_for, validated
    from styleblend.adapters.style import adapter_hashes, load_style
    from PIL import Image
    settings, record = read_settings(args.config), read_record(args.again) if args.again else None
    if record is None and not (args.style and args.prompt):
        raise StyleBlendError("generate needs --style and --prompt, or --from a picture that was drawn here")
    output = Path(args.output or (f"{Path(args.again).stem}-again.png" if record else "picture.png"))
    if record and output.exists() and output.samefile(args.again):
        raise StyleBlendError(f"{output} is the picture that is drawn again, and would be lost: choose another --output")
    phrase = phrase_of(args.prompt) if args.prompt else record.prompt  # a record's has become one already
    seed = args.seed if args.seed is not None else record.seed if record else settings.sampling.seed
    if not 0 <= seed <= LARGEST_SEED:
        raise StyleBlendError(f"--seed {seed} is no seed: give a number from 0 to {LARGEST_SEED}")
    name = check_name(args.style or record.style)
    folder = find_base(settings.base, settings.base_id)
    settings = with_dtype(settings, args.dtype or (record and record.dtype))
    one = settings.model_copy(update={"sampling": (record.sampling if record else settings.sampling).model_copy(update={"batch": 1})})
    sampling = within_memory(one, folder, "drawing once", args.max_memory).sampling
    base = load_base(folder, settings.dtype)
    pipeline = StyleBlendPipeline(base, load_style(Path(settings.adapters) / name, name, base))
    if record is None:
        own = style_settings(settings, pipeline.style)
        blend = blend_for(settings.blend, own, f"style {name}")
        sampling = sampling_for(sampling, own)
        record = Record(phrase, seed, name, style_hash(pipeline.style), base.fingerprint(), sampling_for(settings.sampling, own), blend, preset=own.preset,
                        decoder=base.decoder_fingerprint())
    record = replace(record, prompt=phrase, seed=seed, dtype=base.dtype, version=__version__, adapters=adapter_hashes(Path(settings.adapters) / name, name), libraries=libraries())
    if args.strength is not None:
        stronger = {**record.settings.model_dump(), "fine_scale": args.strength}
        record = replace(record, settings=validated(BlendSettings, stronger, "--strength"))
    if not record.decoder:
        print(f"styleblend: {args.again} does not say with which autoencoder it was drawn: with another one than {base.folder / 'vae'} it looked a little different", file=sys.stderr)
        record = replace(record, decoder=base.decoder_fingerprint())
    for what, then, now in (("base", record.base, base.fingerprint()), ("autoencoder", record.decoder, base.decoder_fingerprint()),
                            ("style", record.style_hash, style_hash(pipeline.style))):
        if then != now:
            raise StyleBlendError(f"{args.again} was drawn with another {what} ({then}; this one is {now}): name a config and adapters with that one")
    pixels = pipeline.generate([record.prompt], [record.seed], sampling, record.settings, once=True)[0]
    save_png(output, saved_size(Image.fromarray(pixels), record.sampling.saved_size), record.chunks())
    print(output)
    return 0


@contextlib.contextmanager
def sigterm_as_ctrl_c():
    """SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that it leaves nothing torn and says how to go on."""
    own = os.getpid()

    def stop(number, frame):
        if os.getpid() != own:
            sys.exit(128 + number)  # Jittor forks processes that compile, and ends them with this signal
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = handle(signal.SIGTERM, stop)
    try:
        yield
    finally:
        handle(signal.SIGTERM, previous)


def run(parser: argparse.ArgumentParser, argv: Optional[List[str]] = None) -> int:
    """Parse and run; 2 and one sentence on stderr for what the user can mend."""
    args = parser.parse_args(argv)
    # Jittor's compiled code flushes subnormal numbers to zero, which NumPy remarks on; nothing here depends on them
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")
    warnings.showwarning = lambda message, *_: print(f"styleblend: {message}", file=sys.stderr)
    try:
        with sigterm_as_ctrl_c():
            return args.run(args)
    except (KeyboardInterrupt, Stopped) as stop:
        anew = " (without --overwrite, which begins anew)" if getattr(args, "overwrite", False) and args.run is not run_load else ""
        print(f"styleblend: {str(stop) or 'stopped; whole files are kept'}: start the same command again to go on{anew}", file=sys.stderr)
        return 130
    except StyleBlendError as error:
        print(f"styleblend: {' '.join(str(error).split())}", file=sys.stderr)  # one line, also where a file's name has a line break
        return 2
    except OSError as error:
        print(f"styleblend: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2


def main(argv: Optional[List[str]] = None) -> int:
    return run(build_parser(), argv)
