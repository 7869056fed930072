"""`context`: a prompt of a picture, a voice, music and the weather; and the same as options of commands that draw."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

from styleblend.cli.options import add_command, add_config, settings_of
from styleblend.cli.progress import tell
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError

FILES = ("image", "speech", "music", "moods")  # options that name files
OPTIONS = (*FILES, "weather", "look", "language", "speech_model", "music_model", "summary")


def add_commands(commands) -> None:
    parser = add_command(commands, "context", "make a prompt of a picture, a voice, music and the weather",
                         example='context --image cat.png --speech note.wav --music song.ogg --weather "light rain"')
    add_config(parser)
    add_media(parser, look=True)
    parser.add_argument("--json", action="store_true", help="print the prompt with its sources, as --context takes it")
    parser.set_defaults(run=run_context)


def add_media(parser, look: bool) -> None:
    """The media, and how they are read; `look`: the command has no --look of its own."""
    parser.add_argument("--image", metavar="PICTURE", help="what it shows is described")
    parser.add_argument("--speech", metavar="FILE", help="a recording of any format; what is said in it is heard")
    parser.add_argument("--music", metavar="FILE", help="a piece of any format; its mood is heard")
    parser.add_argument("--weather", metavar="WHERE", help='words such as "light rain", a place such as "Rome" or '
                        '"41.9,12.5", or a saved JSON answer of a weather service')
    if look:
        parser.add_argument("--look", metavar="WORDS", help='put behind what is shown: "watercolor"')
    parser.add_argument("--summary", action="store_true", help="T5 makes one sentence of picture and speech, where its "
                        "weights are; default: they are merged by rule")
    parser.add_argument("--language", metavar="CODE", help="of the speech, such as en; default: it is detected")
    parser.add_argument("--speech-model", metavar="NAME", help="the Whisper that hears it: a folder, a size or a hub "
                        "id; default: the config's (context.speech), else small")
    parser.add_argument("--music-model", metavar="NAME", help="the CLAP that hears the music, a folder or a hub id, or "
                        "musicnn; default: the config's (context.music), else checkpoints/clap-htsat-unfused where it "
                        "is there, else musicnn")
    parser.add_argument("--moods", metavar="FILE", help="a list of moods; default: the config's (context.moods), else "
                        "the program's")


def add_context(parser, look: bool = True, place: str = "in place of a typed one") -> None:
    """The same as a group of options of a command that draws, with --context for what was made before."""
    group = parser.add_argument_group(f"a prompt that is made of other media, {place}")
    group.add_argument("--context", metavar="FILE", help="what `styleblend context --json` printed")
    add_media(group, look)


def run_context(args) -> int:
    made = made_of_options(given_of(args), settings_of(args))
    if args.json:
        print(made.json())
        return 0
    print(made.prompt)
    say_sources(made)
    return 0


def say_sources(made) -> None:
    for one in made.sources:
        tell(f"{one.kind} {one.given}: {one.text!r} ({one.source})")


def given_of(args, look: bool = True) -> Dict[str, object]:
    """The options of a context that were given."""
    return {name: getattr(args, name) for name in OPTIONS
            if (look or name != "look") and getattr(args, name) not in (None, False)}


def made_of_options(given: Dict[str, object], settings):
    """The context of these options."""
    from styleblend.context.prompt import Media
    from styleblend.jobs.context import make_context
    files = {name: Path(given[name]) for name in FILES if name in given}
    others = {"model" if name == "speech_model" else name: value for name, value in given.items() if name not in FILES}
    return follow(make_context(Media(**files, **others), settings))


def context_of(args, settings, typed: Optional[str] = None, option: str = "--prompt", look: bool = True):
    """The context that these options ask for, which is said; None where they ask for none.

    `typed`: the prompt of `option` that was typed in its place; StyleBlendError where there are both. `look` as in
    `add_media`.
    """
    given = given_of(args, look)
    if not args.context and not given:
        return None
    if args.context and given:
        raise StyleBlendError(f"--{next(iter(given)).replace('_', '-')} has no effect beside --context, whose prompt "
                              "is made: leave one out")
    if typed is not None:
        other = next(iter(given), "context").replace("_", "-")
        raise StyleBlendError(f"there are two prompts: leave {option} out, or --{other}")
    from styleblend.context.prompt import read_context
    made = read_context(Path(args.context)) if args.context else made_of_options(given, settings)
    tell(f"the prompt: {made.prompt}")
    say_sources(made)
    return made
